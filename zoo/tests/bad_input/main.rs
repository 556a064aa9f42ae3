//! Every kind of bad input, given to the program itself: it says in one sentence what is wrong, where, and what to do,
//! and leaves everything as it was. `docs/errors.md` holds the sentences; `UPDATE=1` writes it anew.
#![cfg(unix)]

mod case;
mod gguf;
mod report;
mod table;
mod world;

use case::Shown;
use world::World;

#[test]
fn every_message_is_as_documented_and_nothing_else_happens() {
    let (mut sections, mut failures) = (Vec::new(), Vec::new());
    for (title, cases) in table::sections() {
        let mut messages = Vec::new();
        for case in cases {
            match case.run() {
                Ok(shown) => messages.push((case, shown)),
                Err(failure) => failures.push(format!("{}: {failure}", case.name)),
            }
        }
        sections.push((title, messages));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    report::compare(&report::render(&sections));
}

/// What the cases spoil works before they do.
#[test]
fn unspoilt_everything_works() {
    for command in [
        "zoo inspect DIR/snapshot",
        "zoo inspect DIR/model.gguf",
        "zoo complete hello --max-tokens 2 --model DIR/snapshot",
        "zoo complete hello --max-tokens 2 --model DIR/sharded",
        "zoo complete hello --max-tokens 2 --model DIR/model.gguf",
        "zoo chat hello --max-tokens 2 --model DIR/snapshot",
        "zoo chat --max-tokens 2 --model DIR/model.gguf < DIR/question",
        "zoo trace hello --out DIR/trace --model DIR/snapshot",
        "zoo models",
    ] {
        let Shown { status, output, errors } = World::new().run(command);
        assert!(status == Some(0) && errors.is_empty() && !output.is_empty(), "{command}: {status:?} {errors}");
    }
}

#[test]
fn the_rest_of_a_download_beside_the_whole_file_does_no_harm() {
    let world = World::new();
    world.write("snapshot/model.safetensors.incomplete", "half");
    world.write("snapshot/.cache/huggingface/download/5af571cb.incomplete", "half");
    let Shown { status, errors, .. } = world.run("zoo complete hello --max-tokens 2 --model DIR/snapshot");
    assert!(status == Some(0) && errors.is_empty(), "{errors}");
}

/// A place that even a superuser cannot write; its words differ from system to system.
#[test]
#[cfg(target_os = "linux")]
fn a_cache_where_nothing_can_be_made_is_an_error() {
    for place in ["/proc/zoo", "/proc/self/zoo", "/sys/zoo"] {
        let Shown { status, output, errors } =
            World::new().run(&format!("ZOO_CACHE={place} zoo fetch smollm2-135m-instruct"));
        assert_eq!(status, Some(1), "{errors}");
        assert!(output.is_empty() && errors.contains(place) && errors.contains("set ZOO_CACHE to"), "{errors}");
    }
}
