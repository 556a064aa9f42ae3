//! The source of a template with its costs written into it, so that texts which grow are counted where they do.
//!
//! The engine counts instructions, not what they make: one product of a text and a number is a hundred megabytes. A
//! product becomes a call of the filter `times`, what is joined goes through `added` or `printed`, what is looped over through
//! `looped`, and long texts between tags are followed by `written`; [`limits`](super::limits) has these filters. Templates
//! cannot shadow a filter.

use std::ops::Range;

use minijinja::machinery::{Span, Token, ast, parse, tokenize};
use minijinja::syntax::SyntaxConfig;

use super::limits::SHORT_TEXT;
use ast::{BinOp, BinOpKind, CallArg, Expr, Stmt};

/// What an expression is long by, and how many branches follow one another: the engine goes as deep. Real templates have a tenth.
const MOST_TOKENS: usize = 5_000;
const MOST_BRANCHES: usize = 1_000;

/// The metered source; a source that the engine cannot parse, as it is.
pub(super) fn metered(source: &str, syntax: SyntaxConfig) -> Result<String, &'static str> {
    check_depth(source, syntax.clone())?;
    let Ok(template) = parse(source, "", syntax) else { return Ok(source.to_owned()) };
    let mut meter = Meter { source, edits: Vec::new(), problem: None };
    meter.statement(&template);
    match meter.problem {
        Some(problem) => Err(problem),
        None => Ok(meter.edited()),
    }
}

/// Refuses what the engine's parser and compiler would need too much stack for.
fn check_depth(source: &str, syntax: SyntaxConfig) -> Result<(), &'static str> {
    let (mut tokens, mut branches) = (0, 0);
    for (token, _) in tokenize(source, false, syntax).map_while(Result::ok) {
        match token {
            Token::VariableStart | Token::BlockStart => tokens = 0,
            Token::Ident("elif") => branches += 1,
            _ => tokens += 1,
        }
        if tokens > MOST_TOKENS {
            return Err("an expression in it is too long");
        }
        if branches > MOST_BRANCHES {
            return Err("it has too many branches");
        }
    }
    Ok(())
}

struct Meter<'a> {
    source: &'a str,
    /// What takes the place of what, inner expressions before those around them.
    edits: Vec<(Range<usize>, String)>,
    problem: Option<&'static str>,
}

impl<'a> Meter<'a> {
    fn edited(mut self) -> String {
        self.edits.sort_by_key(|(range, _)| range.start);
        let mut output = String::with_capacity(self.source.len());
        let mut done = 0;
        for (range, text) in self.edits {
            output.push_str(self.source.get(done..range.start).unwrap_or_default());
            output.push_str(&text);
            done = range.end;
        }
        output + self.source.get(done..).unwrap_or_default()
    }

    fn insert(&mut self, at: usize, text: impl Into<String>) {
        self.edits.push((at..at, text.into()));
    }

    fn statements(&mut self, statements: &[Stmt<'a>]) {
        statements.iter().for_each(|statement| self.statement(statement));
    }

    fn expressions<'b>(&mut self, expressions: impl IntoIterator<Item = &'b Expr<'a>>)
    where
        'a: 'b,
    {
        expressions.into_iter().for_each(|expression| self.expression(expression));
    }

    fn statement(&mut self, statement: &Stmt<'a>) {
        match statement {
            Stmt::Template(template) => self.statements(&template.children),
            Stmt::EmitExpr(emit) => self.expression(&emit.expr),
            Stmt::EmitRaw(emit) => self.text(emit.raw),
            Stmt::ForLoop(part) => {
                self.expressions([&part.iter].into_iter().chain(&part.filter_expr));
                self.looped(&part.iter);
                self.statements(&part.body);
                self.statements(&part.else_body);
            }
            Stmt::IfCond(part) => {
                self.expression(&part.expr);
                self.statements(&part.true_body);
                self.statements(&part.false_body);
            }
            Stmt::WithBlock(part) => {
                self.expressions(part.assignments.iter().map(|(_, value)| value));
                self.statements(&part.body);
            }
            Stmt::Set(part) => self.expression(&part.expr),
            Stmt::SetBlock(part) => {
                self.expressions(&part.filter);
                self.statements(&part.body);
            }
            Stmt::AutoEscape(part) => {
                self.expression(&part.enabled);
                self.statements(&part.body);
            }
            Stmt::FilterBlock(part) => {
                self.expression(&part.filter);
                self.statements(&part.body);
            }
            Stmt::Block(part) => self.statements(&part.body),
            Stmt::Import(part) => self.expression(&part.expr),
            Stmt::FromImport(part) => self.expression(&part.expr),
            Stmt::Extends(part) => self.expression(&part.name),
            Stmt::Include(part) => self.expression(&part.name),
            Stmt::Macro(part) => {
                self.expressions(&part.defaults);
                self.statements(&part.body);
            }
            Stmt::CallBlock(part) => {
                self.arguments(&part.call.args);
                self.expressions(&part.macro_decl.defaults);
                self.statements(&part.macro_decl.body);
            }
            Stmt::Do(part) => self.arguments(&part.call.args),
            Stmt::Continue(_) | Stmt::Break(_) => {}
        }
    }

    fn arguments(&mut self, arguments: &[CallArg<'a>]) {
        for argument in arguments {
            let (CallArg::Pos(value)
            | CallArg::Kwarg(_, value)
            | CallArg::PosSplat(value)
            | CallArg::KwargSplat(value)) = argument;
            self.expression(value);
        }
    }

    fn expression(&mut self, expression: &Expr<'a>) {
        match expression {
            Expr::Var(_) | Expr::Const(_) => {}
            Expr::Slice(part) => {
                let bounds = [&part.start, &part.stop, &part.step];
                self.expressions([&part.expr].into_iter().chain(bounds.into_iter().flatten()));
            }
            Expr::UnaryOp(part) => self.expression(&part.expr),
            Expr::BinOp(part) => {
                self.expressions([&part.left, &part.right]);
                self.operation(part, part.span());
            }
            Expr::Compare(part) => {
                self.expressions([&part.expr].into_iter().chain(part.ops.iter().map(|op| &op.expr)));
            }
            Expr::IfExpr(part) => {
                self.expressions([&part.test_expr, &part.true_expr].into_iter().chain(&part.false_expr));
            }
            Expr::Filter(part) => {
                self.expressions(&part.expr);
                self.arguments(&part.args);
            }
            Expr::Test(part) => {
                self.expression(&part.expr);
                self.arguments(&part.args);
            }
            Expr::GetAttr(part) => self.expression(&part.expr),
            Expr::GetItem(part) => self.expressions([&part.expr, &part.subscript_expr]),
            Expr::Call(part) => {
                self.expression(&part.expr);
                self.arguments(&part.args);
            }
            Expr::List(part) => self.expressions(&part.items),
            Expr::Tuple(part) => self.expressions(&part.items),
            Expr::Map(part) => self.expressions(part.keys.iter().chain(&part.values)),
        }
    }

    /// A product becomes a filter; the operands of a sum go through one. What stands between the spans of two operands is
    /// the operator and parentheses.
    fn operation(&mut self, operation: &BinOp<'a>, span: Span) {
        let (sign, filter) = match operation.op {
            BinOpKind::Mul => ('*', ""),
            BinOpKind::Add => ('+', "|added "),
            BinOpKind::Concat => ('~', "|printed "),
            _ => return,
        };
        let (after, before) = (operation.left.span().end_offset as usize, operation.right.span().start_offset as usize);
        let between = self.source.get(after..before).unwrap_or_default();
        let Some(sign) = between.find(sign).filter(|_| between.matches(sign).count() == 1) else {
            self.problem = Some("an operator in it cannot be found again");
            return;
        };
        let sign = after + sign;
        let (start, end) = (span.start_offset as usize, span.end_offset as usize);
        if matches!(operation.op, BinOpKind::Mul) {
            self.insert(start, "(");
            self.edits.push((sign..sign + 1, ")|times(".to_owned()));
            self.insert(end, ")");
            return;
        }
        // The last operand of an operation to the left has been through it.
        if !matches!(&operation.left, Expr::BinOp(left) if matches!(left.op, BinOpKind::Add | BinOpKind::Concat)) {
            self.insert(sign, filter);
        }
        self.insert(end, filter);
    }

    /// What is looped over goes through a filter, where that needs no parentheses.
    fn looped(&mut self, items: &Expr<'a>) {
        let tight = matches!(
            items,
            Expr::Var(_) | Expr::GetAttr(_) | Expr::GetItem(_) | Expr::Slice(_) | Expr::Call(_) | Expr::Filter(_)
        );
        if tight {
            self.insert(items.span().end_offset as usize, "|looped ");
        }
    }

    /// Counts a long text between tags, within a word of it, where blanks are not stripped.
    fn text(&mut self, text: &'a str) {
        if text.len() <= SHORT_TEXT {
            return;
        }
        let start = text.as_ptr() as usize - self.source.as_ptr() as usize;
        let place = text.as_bytes().windows(2).position(|pair| pair.iter().all(u8::is_ascii_alphanumeric));
        let Some(place) = place else {
            self.problem = Some("a long text in it has no words");
            return;
        };
        let before = self.source.get(..start).unwrap_or_default().trim_end().trim_end_matches(['-', '+', '%', '}']);
        let count = format!("{{{{ {}|written }}}}", text.len());
        let verbatim = before.trim_end().ends_with("raw");
        self.insert(start + place + 1, if verbatim { format!("{{% endraw %}}{count}{{% raw %}}") } else { count });
    }
}
