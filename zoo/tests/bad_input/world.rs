//! A folder with a model in each form, in which a command can be run.

use crate::{case::Shown, gguf::Gguf};
use framework::weights::{
    Info, Tensors as _,
    safetensors::{self, File},
};
use serde_json::{Map, Value, json};
use std::{
    cell::Cell,
    collections::BTreeMap,
    env, fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};
use tempfile::TempDir;
use zoo::picture::Picture;

/// The tensors of a file.
pub type Tensors = BTreeMap<String, (Info, Vec<u8>)>;

/// `snapshot/`, the same in shards as `sharded/`, `model.gguf`, an empty `cache/`, and a `question`.
pub struct World {
    folder: TempDir,
    /// Whether permissions matter.
    protected: Cell<bool>,
}

/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(60);

const SHARDS: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];

impl World {
    /// A world where all is well.
    pub fn new() -> Self {
        let world = Self { folder: tempfile::tempdir().unwrap(), protected: Cell::new(false) };
        let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/llama/base");
        let description: Value = serde_json::from_slice(&fs::read(case.join("case.json")).unwrap()).unwrap();
        for snapshot in ["snapshot", "sharded"] {
            world.write(&format!("{snapshot}/config.json"), description["config"].to_string());
            world.write(&format!("{snapshot}/tokenizer.json"), tokenizer().to_string());
            world.write(&format!("{snapshot}/chat_template.jinja"), "{{ messages[0].content }}");
        }
        world.write("snapshot/model.safetensors", fs::read(case.join("weights.safetensors")).unwrap());
        world.shard();
        world.write("model.gguf", Gguf::new().bytes());
        world.write("question", "hello\n");
        fs::create_dir(world.path("cache")).unwrap();
        world
    }

    /// The model in two shards with an index.
    fn shard(&self) {
        let (mut first, mut second, mut index) = (Tensors::new(), Tensors::new(), Map::new());
        for (name, tensor) in tensors(&self.path("snapshot/model.safetensors")) {
            let (shard, into) =
                if name.contains("layers.2") { (SHARDS[1], &mut second) } else { (SHARDS[0], &mut first) };
            index.insert(name.clone(), shard.into());
            into.insert(name, tensor);
        }
        for (shard, tensors) in SHARDS.iter().zip([first, second]) {
            safetensors::write(&self.path("sharded").join(shard), &tensors, &BTreeMap::new()).unwrap();
        }
        self.write("sharded/model.safetensors.index.json", json!({"weight_map": index}).to_string());
    }

    /// Adds `flux/`, a snapshot of a model that makes images.
    pub fn with_flux(&self) {
        self.copy("flux-pipeline/dev", "flux");
    }

    /// Adds `pocket/`, a snapshot of such a model whose parts its configs describe.
    pub fn with_pocket(&self) {
        self.copy("composed-pipeline/encoder", "pocket");
    }

    /// Adds `reader/`, whose transformer reads the text itself and leaves its text encoder unread.
    pub fn with_reader(&self) {
        self.copy("composed-pipeline/self-reading", "reader");
        self.with_pocket();
        fs::rename(self.path("pocket/text_encoder"), self.path("reader/text_encoder")).unwrap();
    }

    /// The components of a case as a snapshot.
    fn copy(&self, case: &str, snapshot: &str) {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(case).join("components");
        for place in fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()) {
            let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
            if place.is_file() {
                self.write(&format!("{snapshot}/{}", name(&place)), fs::read(&place).unwrap());
                continue;
            }
            for file in fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().path()) {
                self.write(&format!("{snapshot}/{}/{}", name(&place), name(&file)), fs::read(&file).unwrap());
            }
        }
    }

    /// Adds `train/`: recipes, their configs, and `data/` with two pictures.
    pub fn with_recipes(&self) {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/train");
        for file in fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()) {
            let name = file.file_name().unwrap().to_str().unwrap();
            self.write(&format!("train/{name}"), fs::read(&file).unwrap());
        }
        let mut lines = String::new();
        for (name, colour) in [("red", [230, 20, 30]), ("blue", [10, 30, 240])] {
            self.write(&format!("train/data/{name}.png"), "");
            let path = self.path(&format!("train/data/{name}.png"));
            Picture::new(8, 8, colour.repeat(64)).unwrap().write(&path, &Value::Null).unwrap();
            lines += &format!("{{\"file_name\": \"{name}.png\", \"text\": \"{name}\"}}\n");
        }
        self.write("train/data/metadata.jsonl", lines);
    }

    /// Changes the text of a file.
    pub fn replace(&self, name: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.path(name)).unwrap();
        assert!(text.contains(from), "{name} has no {from}");
        self.write(name, text.replace(from, to));
    }

    /// The place of that name.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file, and the folders that it is in.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// Deletes a file.
    pub fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).unwrap();
    }

    /// Gives a file another name.
    pub fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).unwrap();
    }

    /// Leaves the first `share` of a file.
    pub fn truncate(&self, name: &str, share: f64) {
        let content = fs::read(self.path(name)).unwrap();
        self.write(name, &content[..(content.len() as f64 * share) as usize]);
    }

    /// Changes an object of JSON.
    pub fn edit(&self, name: &str, change: impl FnOnce(&mut Map<String, Value>)) {
        let mut json: Value = serde_json::from_slice(&fs::read(self.path(name)).unwrap()).unwrap();
        change(json.as_object_mut().unwrap());
        self.write(name, json.to_string());
    }

    /// Sets a key of the snapshot's config.
    pub fn config(&self, key: &str, value: Value) {
        self.edit("snapshot/config.json", |config| drop(config.insert(key.into(), value)));
    }

    /// Changes the tensors of the snapshot.
    pub fn tensors(&self, change: impl FnOnce(&mut Tensors)) {
        let path = self.path("snapshot/model.safetensors");
        let mut tensors = tensors(&path);
        change(&mut tensors);
        safetensors::write(&path, &tensors, &BTreeMap::new()).unwrap();
    }

    /// Changes the GGUF file.
    pub fn gguf(&self, change: impl FnOnce(&mut Gguf)) {
        let mut gguf = Gguf::new();
        change(&mut gguf);
        self.write("model.gguf", gguf.bytes());
    }

    /// Puts a program into place of Python.
    pub fn python(&self, script: &str) {
        self.write("python", format!("#!/bin/sh\n{script}\n"));
        fs::set_permissions(self.path("python"), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Makes a folder that cannot be written.
    pub fn protect(&self, name: &str) {
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o555)).unwrap();
        self.protected.set(true);
    }

    /// What lies in the folder, with the sizes of files.
    pub fn files(&self) -> BTreeMap<PathBuf, Option<u64>> {
        let mut found = BTreeMap::new();
        let mut folders = vec![self.folder.path().to_path_buf()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let kind = fs::metadata(&path).unwrap();
                found.insert(
                    path.strip_prefix(self.folder.path()).unwrap().into(),
                    (!kind.is_dir()).then_some(kind.len()),
                );
                if kind.is_dir() {
                    folders.push(path);
                }
            }
        }
        found
    }

    /// Runs a line of shell with `DIR` for this folder; what it shows has `DIR` in its place again.
    pub fn run(&self, command: &str) -> Shown {
        let folder = self.folder.path().to_str().unwrap();
        let program = Path::new(env!("CARGO_BIN_EXE_zoo"));
        let search = env::var("PATH").unwrap_or_default();
        let mut words = vec!["sh", "-c"];
        if self.protected.get() && is_superuser() {
            // Permissions bind even a superuser who has given up this capability.
            words.splice(..0, ["setpriv", "--inh-caps=-dac_override", "--bounding-set=-dac_override"]);
        }
        let running = Command::new(words[0])
            .args(&words[1..])
            .arg(command.replace("DIR", folder))
            .env("PATH", format!("{}:{search}", program.parent().unwrap().display()))
            .env("ZOO_CACHE", self.path("cache"))
            .env("PYTHON", self.path("python"))
            .env("HOME", folder)
            .env_remove("HF_HOME")
            .env_remove("HF_HUB_CACHE")
            .current_dir(folder)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let output = ended(running, command);
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace(folder, "DIR");
        Shown { status: output.status.code(), output: text(output.stdout), errors: text(output.stderr) }
    }
}

/// Waits for a command, and not for ever: one that hangs may also be one that fills the memory.
fn ended(running: Child, command: &str) -> Output {
    let group = format!("-{}", running.id());
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(running.wait_with_output()));
    receiver.recv_timeout(PATIENCE).map(Result::unwrap).unwrap_or_else(|_| {
        Command::new("kill").args(["-9", "--", &group]).status().unwrap();
        panic!("`{command}` has not ended after {PATIENCE:?}");
    })
}

fn is_superuser() -> bool {
    let id = Command::new("id").arg("-u").output().unwrap();
    id.stdout == b"0\n"
}

fn tensors(path: &Path) -> Tensors {
    let file = File::open(path).unwrap();
    file.header().tensors.keys().map(|name| (name.clone(), file.read(name).unwrap())).collect()
}

/// A tokenizer of a few words.
fn tokenizer() -> Value {
    let words = ["<unk>", "<s>", "</s>", "hello", "world"];
    let ids: Map<String, Value> = words.iter().zip(0..).map(|(word, id)| ((*word).to_owned(), id.into())).collect();
    json!({
        "version": "1.0",
        "added_tokens": [],
        "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": null,
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": ids, "unk_token": "<unk>"},
    })
}
