//! The workspace's files, and its Rust sources without their tests.

use crate::Result;
use proc_macro2::{Span, TokenStream, TokenTree, token_stream::IntoIter};
use std::{
    collections::HashSet,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};
use syn::{Attribute, ImplItem, Item};

/// The files under version control, and new ones that git does not ignore.
pub struct Workspace {
    root: PathBuf,
    files: Vec<String>,
}

impl Workspace {
    /// The workspace that this crate is a part of.
    pub fn here() -> Result<Self> {
        // Asked when it runs: clones that share a target directory share this binary.
        let crate_root = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        Self::at(&PathBuf::from(crate_root).join(".."))
    }

    /// The workspace at `root`.
    pub fn at(root: &Path) -> Result<Self> {
        let git = Command::new("git")
            .current_dir(root)
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .output()
            .map_err(|error| format!("cannot run git: {error}"))?;
        if !git.status.success() {
            return Err(format!("git ls-files: {}", String::from_utf8_lossy(&git.stderr).trim()).into());
        }
        let names = String::from_utf8(git.stdout)?;
        let mut files: Vec<String> = names.split('\0').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        files.sort();
        files.dedup();
        files.retain(|file| root.join(file).symlink_metadata().is_ok_and(|meta| meta.is_file()));
        Ok(Self { root: root.to_owned(), files })
    }

    /// Every file, relative to the root, with `/` between names.
    pub fn files(&self) -> &[String] {
        &self.files
    }

    /// The content of a file.
    pub fn bytes(&self, file: &str) -> Result<Vec<u8>> {
        fs::read(self.root.join(file)).map_err(|error| format!("{file}: {error}").into())
    }

    /// The content of a text file.
    pub fn text(&self, file: &str) -> Result<String> {
        String::from_utf8(self.bytes(file)?).map_err(|error| format!("{file}: {error}").into())
    }

    /// Replaces the content of a file.
    pub fn write(&self, file: &str, text: &str) -> Result<()> {
        fs::write(self.root.join(file), text).map_err(|error| format!("{file}: {error}").into())
    }

    /// The size of a file.
    pub fn size(&self, file: &str) -> Result<u64> {
        Ok(fs::metadata(self.root.join(file)).map_err(|error| format!("{file}: {error}"))?.len())
    }

    /// The Rust sources below any of the folders (all of them when none is given), without their tests.
    pub fn sources(&self, folders: &[&str]) -> Result<Vec<Source>> {
        let mut sources = Vec::new();
        let mut tests = HashSet::new();
        for path in self.files.iter().filter(|path| path.ends_with(".rs")) {
            let wanted = folders.is_empty() || folders.iter().any(|folder| path.starts_with(folder));
            if !wanted || path.split('/').any(|name| name == "tests") {
                continue;
            }
            let source = Source::parse(path, &self.text(path)?)?;
            tests.extend(source.test_modules.iter().cloned());
            sources.push(source);
        }
        // `foo.rs` and everything below `foo/` are tests when `mod foo;` is.
        sources.retain(|source| {
            !tests.iter().any(|module| {
                source.path.strip_prefix(module.as_str()).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
            })
        });
        Ok(sources)
    }
}

/// A Rust file without its tests.
pub struct Source {
    /// Relative to the workspace's root.
    pub path: String,
    /// What it says outside tests.
    pub syntax: syn::File,
    test_modules: Vec<String>,
}

impl Source {
    /// Parses a file.
    pub fn parse(path: &str, text: &str) -> Result<Self> {
        let mut syntax =
            syn::parse_file(text).map_err(|error| format!("{path}:{}: {error}", error.span().start().line))?;
        let folder =
            match path.strip_suffix("/mod.rs").or(path.strip_suffix("/lib.rs")).or(path.strip_suffix("/main.rs")) {
                Some(folder) => folder,
                None => path.strip_suffix(".rs").unwrap_or(path),
            };
        let mut test_modules = Vec::new();
        strip(&mut syntax.items, folder, &mut test_modules);
        Ok(Self { path: path.to_owned(), syntax, test_modules })
    }
}

/// The line on which a span begins, counted from 1.
pub fn line(span: Span) -> usize {
    span.start().line
}

/// The leaves of a token tree in order: delimiters open and close as leaves of their own, comments are left out.
pub fn leaves(tokens: TokenStream, leaf: &mut dyn FnMut(&str, Span)) {
    let mut tokens = tokens.into_iter();
    while let Some(token) = tokens.next() {
        match &token {
            TokenTree::Punct(hash) if hash.as_char() == '#' => match after_doc(tokens.clone()) {
                Some(rest) => tokens = rest,
                None => leaf("#", token.span()),
            },
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    proc_macro2::Delimiter::Parenthesis => ("(", ")"),
                    proc_macro2::Delimiter::Brace => ("{", "}"),
                    proc_macro2::Delimiter::Bracket => ("[", "]"),
                    proc_macro2::Delimiter::None => ("", ""),
                };
                leaf(open, group.span_open());
                leaves(group.stream(), leaf);
                leaf(close, group.span_close());
            }
            TokenTree::Literal(literal) => leaf(&literal.to_string(), literal.span()),
            TokenTree::Ident(ident) => leaf(&ident.to_string(), ident.span()),
            TokenTree::Punct(punct) => leaf(punct.as_char().encode_utf8(&mut [0; 4]), punct.span()),
        }
    }
}

/// What follows a `#` that begins a comment for rustdoc.
fn after_doc(mut tokens: IntoIter) -> Option<IntoIter> {
    let mut next = tokens.next()?;
    if matches!(&next, TokenTree::Punct(inner) if inner.as_char() == '!') {
        next = tokens.next()?;
    }
    let TokenTree::Group(group) = next else {
        return None;
    };
    let name = group.stream().into_iter().next()?;
    matches!(name, TokenTree::Ident(name) if name == "doc").then_some(tokens)
}

/// Removes the items that only tests see, and notes their modules that are files of their own.
fn strip(items: &mut Vec<Item>, folder: &str, test_modules: &mut Vec<String>) {
    items.retain_mut(|item| {
        if is_test(attributes(item)) {
            if let Item::Mod(module) = item
                && module.content.is_none()
            {
                test_modules.push(format!("{folder}/{}", module.ident));
            }
            return false;
        }
        match item {
            Item::Mod(module) => {
                if let Some((_, items)) = &mut module.content {
                    strip(items, &format!("{folder}/{}", module.ident), test_modules);
                }
            }
            Item::Impl(block) => block.items.retain(|item| match item {
                ImplItem::Fn(function) => !is_test(&function.attrs),
                _ => true,
            }),
            _ => {}
        }
        true
    });
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// `#[test]`, `#[cfg(test)]`, `#[cfg(all(test, …))]`.
fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        if attribute.path().is_ident("test") {
            return true;
        }
        let Ok(list) = attribute.meta.require_list() else {
            return false;
        };
        let condition = list.tokens.to_string().replace(' ', "");
        list.path.is_ident("cfg") && (condition == "test" || condition.starts_with("all(test,"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use quote::ToTokens;

    #[test]
    fn tests_are_left_out_and_their_files_noted() {
        let text = "fn kept() {}\n#[cfg(test)] mod tests { fn gone() {} }\n#[cfg(test)]\nmod toy;\n\
                    #[cfg(not(test))] fn also_kept() {}\nmod inner { #[cfg(all(test, unix))] mod deep; }";
        let source = Source::parse("a/src/lib.rs", text).unwrap();
        assert_eq!(source.test_modules, ["a/src/toy", "a/src/inner/deep"]);
        assert_eq!(source.syntax.items.len(), 3);
    }

    #[test]
    fn leaves_skip_comments() {
        let file = syn::parse_file("//! Doc.\n/// Doc.\n#[inline]\nfn f(x: u8) -> u8 { x /* c */ }").unwrap();
        let mut seen = String::new();
        leaves(file.to_token_stream(), &mut |leaf, _| seen.push_str(leaf));
        assert_eq!(seen, "#[inline]fnf(x:u8)->u8{x}");
    }

    #[test]
    fn a_broken_file_is_named() {
        let error = Source::parse("a.rs", "fn f(").err().unwrap().to_string();
        assert!(error.starts_with("a.rs:1: "), "{error}");
    }
}
