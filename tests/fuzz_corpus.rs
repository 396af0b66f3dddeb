//! Replays the committed corpus of each fuzz target, so that what fuzzing once found stays found without a
//! fuzzer.

// The bodies of the targets live in the fuzz crate, which is no member of the workspace.
#[allow(
    unreachable_pub,
    reason = "public in the fuzz crate, whose root this is there"
)]
#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::path::Path;

macro_rules! replay {
    ($($target:ident),+ $(,)?) => {
        $(
            #[test]
            fn $target() {
                replay(stringify!($target), targets::$target);
            }
        )+

        #[test]
        fn every_corpus_has_its_target() {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
            for entry in std::fs::read_dir(folder).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                assert!([$(stringify!($target)),+].contains(&name.as_str()), "{name} is replayed by no test");
            }
        }
    };
}

replay!(
    greeting, frames, websocket, upgrade, backtrace, operations, address, manifest, control, data, native,
    sql
);

fn replay(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let mut inputs: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "{} is empty", folder.display());
    for path in inputs {
        // Captured, and shown when the input makes the target fail.
        println!("{}", path.display());
        run(&std::fs::read(&path).unwrap());
    }
}
