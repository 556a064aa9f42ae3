//! One definition of each block in the whole workspace, and all of them in `framework`.
//!
//! Judged by name and by shape: a struct with a block's name, a function with the name of a block's inner step, and a
//! use of MLX's fused kernels are each confined to one place. A struct that is read from a file is a config, not a block.

use crate::{
    Finding, Result, Verdict,
    source::{Source, Workspace, line},
};
use std::collections::BTreeMap;
use syn::{
    Attribute, ItemStruct, Path, Signature, UseTree,
    visit::{self, Visit},
};

/// A kind of block, and the parts of names that tell it.
const KINDS: &[(&str, &[&str])] = &[
    ("attention", &["Attention", "Attn"]),
    ("RMSNorm", &["RmsNorm", "RMSNorm"]),
    ("LayerNorm", &["LayerNorm"]),
    ("GroupNorm", &["GroupNorm"]),
    ("MLP", &["Mlp", "MLP", "FeedForward"]),
    ("GLU", &["Glu", "GLU"]),
    ("rope", &["Rope", "RoPE", "Rotary"]),
    ("timestep embedding", &["TimestepEmbed", "TimestepProj"]),
    ("ResNet block", &["ResnetBlock", "ResNetBlock", "ResBlock"]),
    ("mask", &["Mask"]),
    ("MoE router", &["Router", "MoeGate", "MoEGate"]),
];

/// Functions that are the inside of a block.
const STEPS: &[&str] = &[
    "apply_rope",
    "apply_rotary",
    "apply_rotary_emb",
    "attention_mask",
    "build_mask",
    "causal_mask",
    "geglu",
    "group_norm",
    "layer_norm",
    "repeat_kv",
    "rms_norm",
    "rope_rotate",
    "rotate_half",
    "scaled_dot_product_attention",
    "sinusoidal_embedding",
    "swiglu",
    "timestep_embedding",
];

/// The folder of the blocks.
const HOME: &str = "framework/src/";

/// Structs that have a block's name and are none, each with its reason: `path Name: reason`.
const ALLOWED: &str = "lints/blocks.txt";

/// Applies the rule to the workspace.
pub fn check(workspace: &Workspace) -> Result<Verdict> {
    let sources = workspace.sources(&[])?;
    judge(&sources, &workspace.text(ALLOWED)?)
}

fn judge(sources: &[Source], allowed: &str) -> Result<Verdict> {
    let mut seen = Seen::default();
    for source in sources {
        seen.file.clone_from(&source.path);
        seen.visit_file(&source.syntax);
    }
    let mut verdict = Verdict::default();
    let mut allowed = parse_allowed(allowed)?;
    for (kind, structs) in KINDS.iter().zip(seen.structs(&mut allowed)) {
        let (home, strays): (Vec<_>, Vec<_>) = structs.into_iter().partition(|found| found.file.starts_with(HOME));
        verdict.measured.push(match home.first() {
            Some(found) => format!("{}: {} at {}:{}", kind.0, found.name, found.file, found.line),
            None => format!("{}: none yet", kind.0),
        });
        for stray in strays.into_iter().chain(home.into_iter().skip(1)) {
            let problem = format!("`{}` looks like another {}; compose the one in {HOME}", stray.name, kind.0);
            verdict.findings.push(Finding::new(&stray.file, stray.line, problem));
        }
    }
    for (path, name) in allowed.into_iter().filter(|(_, used)| !used).map(|(key, _)| key) {
        verdict.findings.push(Finding::new(ALLOWED, 0, format!("`{path} {name}` allows a struct that is not there")));
    }
    for step in seen.steps {
        let problem = format!("`fn {}` is the inside of a block; compose the one in {HOME}", step.name);
        verdict.findings.push(Finding::new(&step.file, step.line, problem));
    }
    for (kernel, uses) in seen.kernels {
        let home = uses.iter().map(|found| &found.file).find(|file| file.starts_with(HOME)).cloned();
        for stray in uses.into_iter().filter(|found| Some(&found.file) != home.as_ref()) {
            let problem = format!("`{kernel}` belongs to one file, {}", home.as_deref().unwrap_or(HOME));
            verdict.findings.push(Finding::new(&stray.file, stray.line, problem));
        }
    }
    Ok(verdict)
}

type Allowed = BTreeMap<(String, String), bool>;

fn parse_allowed(text: &str) -> Result<Allowed> {
    let mut allowed = Allowed::new();
    for entry in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        let parsed = entry.split_once(": ").and_then(|(key, _)| key.split_once(' '));
        let (path, name) = parsed.ok_or_else(|| format!("{ALLOWED}: `{entry}` is not `path Name: reason`"))?;
        allowed.insert((path.to_owned(), name.to_owned()), false);
    }
    Ok(allowed)
}

#[derive(Clone)]
struct Found {
    name: String,
    file: String,
    line: usize,
}

#[derive(Default)]
struct Seen {
    file: String,
    all: Vec<Found>,
    steps: Vec<Found>,
    kernels: BTreeMap<String, Vec<Found>>,
}

impl Seen {
    /// The structs of each kind that are not allowed; marks what was used of the list.
    fn structs(&self, allowed: &mut Allowed) -> Vec<Vec<Found>> {
        let mut kinds = vec![Vec::new(); KINDS.len()];
        for found in &self.all {
            let of_kind = |(_, (_, parts)): &(_, &(_, &[&str]))| parts.iter().any(|part| found.name.contains(part));
            let Some((kind, _)) = kinds.iter_mut().zip(KINDS).find(of_kind) else {
                continue;
            };
            match allowed.get_mut(&(found.file.clone(), found.name.clone())) {
                Some(used) => *used = true,
                None => kind.push(found.clone()),
            }
        }
        kinds
    }

    fn kernel(&mut self, name: &syn::Ident) {
        let found = Found { name: name.to_string(), file: self.file.clone(), line: line(name.span()) };
        self.kernels.entry(found.name.clone()).or_default().push(found);
    }
}

impl<'ast> Visit<'ast> for Seen {
    fn visit_item_struct(&mut self, item: &'ast ItemStruct) {
        let found = Found { name: item.ident.to_string(), file: self.file.clone(), line: line(item.ident.span()) };
        if self.file.starts_with(HOME) || !item.attrs.iter().any(derives_deserialize) {
            self.all.push(found);
        }
        visit::visit_item_struct(self, item);
    }

    fn visit_signature(&mut self, signature: &'ast Signature) {
        let name = signature.ident.to_string();
        if STEPS.contains(&name.as_str()) && !self.file.starts_with(HOME) {
            self.steps.push(Found { name, file: self.file.clone(), line: line(signature.ident.span()) });
        }
        visit::visit_signature(self, signature);
    }

    fn visit_path(&mut self, path: &'ast Path) {
        let mut segments = path.segments.iter().rev().map(|segment| &segment.ident);
        if let (Some(last), before) = (segments.next(), segments.next())
            && (before.is_some_and(|before| before == "fast") || last.to_string().starts_with("mlx_fast_"))
        {
            self.kernel(last);
        }
        visit::visit_path(self, path);
    }

    fn visit_use_path(&mut self, tree: &'ast syn::UsePath) {
        if tree.ident == "fast" {
            match &*tree.tree {
                UseTree::Name(name) => self.kernel(&name.ident),
                UseTree::Rename(name) => self.kernel(&name.ident),
                _ => self.kernel(&tree.ident),
            }
        }
        visit::visit_use_path(self, tree);
    }
}

/// Parameters cannot be deserialised, so what can be is no block.
fn derives_deserialize(attribute: &Attribute) -> bool {
    let derives = attribute.meta.require_list().ok().filter(|list| list.path.is_ident("derive"));
    derives.is_some_and(|list| list.tokens.to_string().contains("Deserialize"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(files: &[(&str, &str)], allowed: &str) -> Vec<String> {
        let sources: Vec<Source> = files.iter().map(|(path, text)| Source::parse(path, text).unwrap()).collect();
        judge(&sources, allowed).unwrap().findings.iter().map(Finding::to_string).collect()
    }

    #[test]
    fn one_of_each_in_the_framework_is_right() {
        let files = [("framework/src/norm.rs", "pub struct RmsNorm; pub enum AnyNorm {} fn f() { fast::rms_norm(); }")];
        assert!(findings(&files, "").is_empty());
    }

    #[test]
    fn a_second_struct_is_found_wherever_it_is() {
        let home = ("framework/src/attention.rs", "pub struct Attention;");
        let model = ("zoo/src/x.rs", "\nstruct XSelfAttention;");
        assert_eq!(
            findings(&[home, model], ""),
            ["zoo/src/x.rs:2: `XSelfAttention` looks like another attention; compose the one in framework/src/"]
        );
        assert_eq!(findings(&[home, ("framework/src/joint.rs", "struct JointAttention;")], "").len(), 1);
        assert_eq!(findings(&[("benches/src/x.rs", "struct MyRMSNorm;")], "").len(), 1);
    }

    #[test]
    fn a_config_is_no_block() {
        assert!(
            findings(&[("zoo/src/x.rs", "#[derive(Debug, serde::Deserialize)] struct XFeedForward;")], "").is_empty()
        );
        assert_eq!(findings(&[("zoo/src/x.rs", "#[derive(Debug)] struct XFeedForward;")], "").len(), 1);
    }

    #[test]
    fn steps_and_kernels_belong_to_the_framework() {
        let step = findings(&[("zoo/src/x.rs", "fn rotate_half() {}")], "");
        assert!(step[0].contains("inside of a block"), "{step:?}");
        let home = ("framework/src/norm.rs", "fn f() { fast::rms_norm(); }");
        for second in ["fn f() { mlx_rs::fast::rms_norm(); }", "use mlx_rs::fast::rms_norm;"] {
            let found = findings(&[home, ("framework/src/x.rs", second)], "");
            assert_eq!(found, ["framework/src/x.rs:1: `rms_norm` belongs to one file, framework/src/norm.rs"]);
        }
    }

    #[test]
    fn the_list_needs_reasons_and_no_dead_entries() {
        let files = [("zoo/src/rope.rs", "struct RopeKeys;")];
        assert!(findings(&files, "# comment\nzoo/src/rope.rs RopeKeys: keys of a config").is_empty());
        assert_eq!(findings(&[], "zoo/src/rope.rs RopeKeys: keys of a config").len(), 1);
        assert!(judge(&[], "zoo/src/rope.rs RopeKeys").is_err());
    }
}
