//! Repositories, from a server on this machine that answers as the Hub does, and worse.

use crate::{continued, place};
use framework::weights::Packed;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    ops::ControlFlow,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
    thread,
};
use tempfile::TempDir;
use zoo::fetch::{
    Event,
    hub::{Hub, Name},
};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// How the server answers a request for a file.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mood {
    /// With the range that was asked for.
    Well,
    /// With the whole file, whatever was asked for.
    Whole,
    /// By passing it on to another host.
    Elsewhere,
    /// By passing it on to itself, for ever.
    InCircles,
    /// With this status.
    Status(u16),
    /// With half of what was asked for, having announced all of it.
    Half,
    /// With half of what was asked for, having announced no length.
    HalfUnannounced,
    /// With the whole file's first half and no announced length.
    WholeHalf,
    /// With other bytes.
    Other,
    /// With another part than was asked for.
    Elsewise,
    /// With more bytes than there are.
    More,
}

/// What the server has seen and how it answers.
struct State {
    mood: Mood,
    files: BTreeMap<String, Vec<u8>>,
    seen: Vec<String>,
}

/// A server that ends with the process, and a cache.
struct World {
    state: Arc<Mutex<State>>,
    endpoint: String,
    home: TempDir,
}

/// Requests that a server answers before it stops by itself.
const MOST: usize = 500;

impl World {
    fn new() -> Self {
        let dense = place("fixtures/mlx-lm/dense");
        let read = |name: &str| (name.to_owned(), fs::read(dense.join(name)).unwrap());
        let mut files = BTreeMap::from(["config.json", "model.safetensors", "model.safetensors.index.json"].map(read));
        for other in ["README.md", "model.fp16.safetensors", "onnx/model.onnx"] {
            files.insert(other.into(), b"nobody reads this".to_vec());
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State { mood: Mood::Well, files, seen: Vec::new() }));
        let shared = state.clone();
        thread::spawn(move || {
            for connection in listener.incoming().take(MOST) {
                // Whoever hung up is the client's business.
                let _ = connection.and_then(|connection| answer(connection, &shared));
            }
        });
        Self { state, endpoint, home: tempfile::tempdir().unwrap() }
    }

    fn root(&self) -> PathBuf {
        self.home.path().join("hub")
    }

    fn hub(&self) -> Hub {
        Hub::new(self.root(), &self.endpoint, Some("secret".into()))
    }

    fn set(&self, mood: Mood) {
        self.state.lock().unwrap().mood = mood;
    }

    /// The requests since this was last asked.
    fn seen(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().seen)
    }

    fn fetch(&self) -> zoo::Result<PathBuf> {
        let mut last = 0;
        self.hub().fetch(&tiny(), &mut |event| {
            if let Event::Bytes { done, total, .. } = event {
                assert!(done >= last && done <= total, "{done} of {total} after {last}");
                last = done;
            }
            ControlFlow::Continue(())
        })
    }

    fn problem(&self, mood: Mood) -> String {
        self.set(mood);
        let problem = self.fetch().unwrap_err().to_string();
        assert_eq!(self.hub().snapshot(&tiny()), None, "{mood:?}: something half is taken for a snapshot");
        assert!(
            self.blobs().iter().all(|(name, bytes)| name.ends_with(".incomplete") || self.is_whole(bytes)),
            "{mood:?}"
        );
        problem
    }

    fn blobs(&self) -> Vec<(String, Vec<u8>)> {
        let Ok(entries) = fs::read_dir(self.root().join("models--maker--tiny/blobs")) else { return Vec::new() };
        let entry =
            |path: PathBuf| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap());
        entries.map(|found| entry(found.unwrap().path())).collect()
    }

    fn is_whole(&self, bytes: &[u8]) -> bool {
        self.state.lock().unwrap().files.values().any(|file| file == bytes)
    }
}

fn tiny() -> Name {
    Name::of("hf:maker/tiny").unwrap().unwrap()
}

fn answer(connection: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut lines = BufReader::new(connection.try_clone()?).lines();
    let mut head = Vec::new();
    while let Some(line) = lines.next().transpose()?.filter(|line| !line.is_empty()) {
        head.push(line);
    }
    let path = head[0].split(' ').nth(1).unwrap().to_owned();
    let header = |name: &str| {
        head.iter()
            .find_map(|line| line.split_once(": ").filter(|(key, _)| key.eq_ignore_ascii_case(name)))
            .map(|(_, v)| v)
    };
    let token = header("authorization").unwrap_or("nobody");
    let range = header("range").unwrap_or("all").to_owned();
    let mut state = state.lock().unwrap();
    state.seen.push(format!("{path} {range} {token}"));
    let reply = reply(&state, &path, &range, header("host").unwrap());
    (&connection).write_all(&reply)
}

fn reply(state: &State, path: &str, range: &str, host: &str) -> Vec<u8> {
    let with =
        |head: &str, body: &[u8]| [format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n").as_bytes(), body].concat();
    let sized = |status: &str, length: usize, more: &str, body: &[u8]| {
        with(&format!("{status}\r\nContent-Length: {length}{more}"), body)
    };
    if let Mood::Status(status) = state.mood {
        return sized(&format!("{status} No\r\nRetry-After: 7"), 2, "", b"no");
    }
    if path.starts_with("/api/models/maker/tiny/revision/main") {
        let list = listing(state).to_string();
        return sized("200 OK", list.len(), "", list.as_bytes());
    }
    let prefix = format!("/maker/tiny/resolve/{COMMIT}/");
    let Some(name) = path.strip_prefix(&prefix).or_else(|| path.strip_prefix("/elsewhere/")) else {
        return sized("404 Not Found", 0, "", b"");
    };
    let Some(file) = state.files.get(name) else { return sized("404 Not Found", 0, "", b"") };
    let (first, last) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')).unwrap();
    let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
    let part = &file[first..=last];
    let part_of = |first: usize| format!("\r\nContent-Range: bytes {first}-{last}/{}", file.len());
    match state.mood {
        Mood::Elsewhere if path.starts_with(&prefix) => {
            let host = host.replace("127.0.0.1", "localhost");
            with(&format!("302 Found\r\nContent-Length: 0\r\nLocation: http://{host}/elsewhere/{name}"), b"")
        }
        Mood::InCircles => with(&format!("307 Again\r\nContent-Length: 0\r\nLocation: {path}"), b""),
        Mood::Whole => sized("200 OK", file.len(), "", file),
        Mood::Half => sized("206 Partial", part.len(), &part_of(first), &part[..part.len() / 2]),
        Mood::HalfUnannounced => with(&format!("206 Partial{}", part_of(first)), &part[..part.len() / 2]),
        Mood::WholeHalf => with("200 OK", &file[..file.len() / 2]),
        Mood::Other => sized("206 Partial", part.len(), &part_of(first), &vec![b'x'; part.len()]),
        Mood::Elsewise => sized("206 Partial", part.len(), &part_of(first + 1), part),
        Mood::More => sized("200 OK", file.len() + 5, "", &[file.as_slice(), b"extra"].concat()),
        _ => sized("206 Partial", part.len(), &part_of(first), part),
    }
}

fn listing(state: &State) -> serde_json::Value {
    let siblings = state.files.iter().map(|(name, bytes)| {
        let sha256: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        let mut sibling = json!({"rfilename": name, "size": bytes.len(), "blobId": &sha256[..40]});
        if name.ends_with(".safetensors") {
            sibling["lfs"] = json!({"sha256": sha256, "size": bytes.len()});
        }
        sibling
    });
    let mut siblings: Vec<_> = siblings.collect();
    siblings.push(json!({"rfilename": "../escape.json", "size": 2, "blobId": COMMIT}));
    json!({"sha": COMMIT, "siblings": siblings, "tags": ["license:apache-2.0"]})
}

#[test]
fn a_repository_is_fetched_once_and_is_a_snapshot_then() {
    let world = World::new();
    let folder = world.fetch().unwrap();
    assert_eq!(world.hub().snapshot(&tiny()).as_deref(), Some(folder.as_path()));
    let mut names: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["config.json", "model.safetensors", "model.safetensors.index.json"]);
    assert!(!world.home.path().join("escape.json").exists());
    assert!(world.seen().iter().all(|request| request.ends_with("Bearer secret")));
    let (answered, expected) = (folder.as_path(), place("fixtures/mlx-lm/dense"));
    let tokens = |folder: &Path| continued(folder, Packed::Keep, &[1, 2, 3], 4).unwrap();
    assert_eq!(tokens(answered), tokens(&expected));

    world.fetch().unwrap();
    assert_eq!(world.seen().len(), 1, "only the list of files is asked for again");
    let commit = Name::of(&format!("hf:maker/tiny@{COMMIT}")).unwrap().unwrap();
    assert_eq!(world.hub().snapshot(&commit), Some(folder));
    let other = Name::of("hf:maker/tiny@v2").unwrap().unwrap();
    assert!(world.hub().locate(&other).unwrap_err().to_string().contains("`zoo fetch hf:maker/tiny@v2`"));
}

#[test]
fn redirects_are_followed_without_the_token() {
    let world = World::new();
    world.set(Mood::Elsewhere);
    world.fetch().unwrap();
    let seen = world.seen();
    let elsewhere: Vec<_> = seen.iter().filter(|request| request.starts_with("/elsewhere")).collect();
    assert!(elsewhere.len() == 3 && elsewhere.iter().all(|request| request.ends_with("nobody")), "{seen:?}");
    assert!(World::new().problem(Mood::InCircles).contains("in circles"));
}

#[test]
fn a_refusal_says_what_to_do() {
    let world = World::new();
    for (status, expected) in [
        (401, "is not for the token in use (401): accept its licence on http://127.0.0.1"),
        (403, "or set HF_TOKEN to another token"),
        (404, "no such repository, or it has no revision `main` (404); check the spelling"),
        (429, "asked too often (429); run the same command in 7 s, and it goes on where it stopped"),
        (503, "the server failed (503); run the same command later"),
        (418, "the status 418"),
    ] {
        let problem = world.problem(Mood::Status(status));
        assert!(problem.starts_with("hf:maker/tiny: ") && problem.contains(expected), "{problem}");
    }
    let nobody = Hub::new(world.root(), &world.endpoint, None);
    world.set(Mood::Status(401));
    let problem = nobody.fetch(&tiny(), &mut |_| ControlFlow::Continue(())).unwrap_err().to_string();
    assert!(problem.contains("then set HF_TOKEN to a token of yours"), "{problem}");
    let nowhere = Hub::new(world.root(), "http://127.0.0.1:1", None);
    let problem = nowhere.fetch(&tiny(), &mut |_| ControlFlow::Continue(())).unwrap_err().to_string();
    assert!(problem.contains("http://127.0.0.1:1 cannot be reached"), "{problem}");
}

#[test]
fn what_broke_off_is_never_whole_and_is_gone_on_with() {
    for mood in [Mood::Half, Mood::HalfUnannounced] {
        let world = World::new();
        let problem = world.problem(mood);
        assert!(problem.contains("broke off after") && problem.contains("it goes on there"), "{mood:?}: {problem}");
        let kept: usize = world.blobs().iter().map(|(_, bytes)| bytes.len()).sum();
        world.seen();
        world.set(Mood::Well);
        let folder = world.fetch().unwrap();
        let first = world.seen().into_iter().find(|request| request.contains("bytes=")).unwrap();
        assert!(kept > 0 && !first.contains("bytes=0-"), "{first} after {kept}");
        assert_eq!(fs::read(folder.join("config.json")).unwrap(), world.state.lock().unwrap().files["config.json"]);
    }
    // Such a server has to be asked for everything again, and is given up.
    assert!(World::new().problem(Mood::WholeHalf).contains("broke off after"));
}

#[test]
fn a_server_without_ranges_does_no_harm_to_what_is_here() {
    let world = World::new();
    world.problem(Mood::Half);
    world.set(Mood::Whole);
    let folder = world.fetch().unwrap();
    for name in ["config.json", "model.safetensors"] {
        assert!(fs::read(folder.join(name)).unwrap() == world.state.lock().unwrap().files[name], "{name}");
    }
}

#[test]
fn other_bytes_than_were_announced_are_not_kept() {
    for (mood, expected) in
        [(Mood::Elsewise, "another part"), (Mood::More, "sends more of `config.json` than it announced")]
    {
        let problem = World::new().problem(mood);
        assert!(problem.contains(expected), "{problem}");
    }
    let world = World::new();
    world.state.lock().unwrap().files.retain(|name, _| name == "model.safetensors");
    let problem = world.problem(Mood::Other);
    assert!(problem.contains("SHA-256") && problem.contains("not kept"), "{problem}");
    assert!(world.blobs().is_empty());
}

#[test]
fn what_was_stopped_leaves_no_snapshot() {
    let world = World::new();
    let stopped = world.hub().fetch(&tiny(), &mut |event| match event {
        Event::Bytes { done, .. } if done > 100 => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    assert!(matches!(stopped, Err(zoo::Error::Cancelled)));
    assert_eq!(world.hub().snapshot(&tiny()), None);
    world.fetch().unwrap();
}

#[test]
fn a_repository_without_one_set_of_weights_says_what_it_holds() {
    let world = World::new();
    let with = |names: &[&str]| {
        world.state.lock().unwrap().files = names.iter().map(|name| ((*name).to_owned(), b"{}".to_vec())).collect();
        world.problem(Mood::Well)
    };
    assert!(with(&["config.json", "a.bin"]).contains("holds no `.safetensors` and no `.gguf` file"));
    assert!(with(&["a.Q4.gguf", "a.Q8.gguf"]).contains("holds 2 files of weights (a.Q4.gguf, …)"));
}

#[test]
fn the_command_fetches_and_everything_else_only_looks() {
    let world = World::new();
    let zoo = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zoo"));
        for name in ["HF_HUB_CACHE", "HF_TOKEN", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
            command.env_remove(name);
        }
        command.env("HF_HOME", world.home.path()).env("HF_ENDPOINT", &world.endpoint);
        let output = command.args(arguments).output().unwrap();
        (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    let (fine, said) = zoo(&["inspect", "hf:maker/tiny"]);
    assert!(!fine && said.contains("fetch it with `zoo fetch hf:maker/tiny`"), "{said}");
    assert!(world.seen().is_empty(), "only a fetch asks a server");
    fs::write(world.home.path().join("token"), "kept\n").unwrap();
    let (fine, said) = zoo(&["fetch", "hf:maker/tiny"]);
    assert!(fine && said.contains("licence apache-2.0") && said.contains(COMMIT), "{said}");
    assert!(world.seen().iter().all(|request| request.ends_with("Bearer kept")));
    let (fine, said) = zoo(&["inspect", "hf:maker/tiny"]);
    assert!(fine && said.contains("llama"), "{said}");
    assert!(world.seen().is_empty());
}
