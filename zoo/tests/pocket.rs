//! The model that ships with the program.

use std::{path::Path, process::Command};
use zoo::{Files, Open, picture::Picture, published};

fn heart(folder: &Path, name: &str) -> Picture {
    let mut zoo = Command::new(env!("CARGO_BIN_EXE_zoo"));
    zoo.current_dir(folder).env("ZOO_CACHE", folder.join("cache")).args(["generate", "a red heart", "--out", name]);
    let ended = zoo.output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    Picture::read(&folder.join(name)).unwrap()
}

#[test]
fn a_red_heart_is_red_in_the_middle_and_white_at_the_corners() {
    let folder = tempfile::tempdir().unwrap();
    // A folder of the model's name is not the model.
    std::fs::create_dir(folder.path().join("pocket")).unwrap();
    let picture = heart(folder.path(), "one.png");
    let pixel = |x: usize, y: usize| &picture.pixels[3 * (128 * y + x)..][..3];
    let [red, green, blue] = pixel(64, 64) else { unreachable!() };
    assert!(*red > 180 && *green < 100 && *blue < 130, "{:?}", pixel(64, 64));
    for [x, y] in [[2, 2], [125, 2], [2, 125], [125, 125]] {
        assert!(pixel(x, y).iter().all(|&channel| channel > 235), "{:?}", pixel(x, y));
    }
    assert_eq!(picture, heart(folder.path(), "two.png"), "the same seed, the same pixels");
}

#[test]
fn its_row_says_what_it_offers() {
    let row = published::find("pocket").unwrap();
    let weights = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pocket/weights");
    let model = Open::default().generator("pocket", &Files::At(weights)).unwrap();
    assert_eq!(Some(model.capabilities()), row.image.as_ref());
}
