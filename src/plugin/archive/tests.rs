//! Archives, made by hand, that are fine, damaged or hostile.

use super::*;
use std::io::Write;

/// A zip of stored entries, written byte by byte so that it can lie.
#[derive(Default)]
pub(super) struct Zip {
    pub(super) bytes: Vec<u8>,
    pub(super) directory: Vec<u8>,
    pub(super) count: u32,
}

/// What an entry says of itself.
pub(super) struct Said<'a> {
    pub(super) name: &'a str,
    pub(super) data: &'a [u8],
    pub(super) mode: u32,
    pub(super) flags: u16,
    pub(super) method: u16,
    pub(super) size: u32,
    pub(super) crc: u32,
    /// In front of the data: sizes as a zip64 field.
    pub(super) zip64: bool,
}

impl<'a> Said<'a> {
    pub(super) fn file(name: &'a str, data: &'a [u8]) -> Self {
        let size = u32::try_from(data.len()).unwrap();
        Self {
            name,
            data,
            mode: 0o100_644,
            flags: 0,
            method: 0,
            size,
            crc: crc32(data),
            zip64: false,
        }
    }
}

pub(super) fn crc32(data: &[u8]) -> u32 {
    !data.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 {
                crc >> 1 ^ 0xedb8_8320
            } else {
                crc >> 1
            }
        })
    })
}

impl Zip {
    pub(super) fn with(mut self, said: &Said<'_>) -> Self {
        const DESCRIPTOR: u16 = 8;
        let offset = u32::try_from(self.bytes.len()).unwrap();
        let packed = u32::try_from(said.data.len()).unwrap();
        let has_descriptor = said.flags & DESCRIPTOR != 0;
        let header = |crc: u32, packed: u32, size: u32, extra: &[u8]| {
            let mut header = Vec::new();
            for half in [said.flags, said.method, 0, 0] {
                header.extend(half.to_le_bytes());
            }
            for word in [crc, packed, size] {
                header.extend(word.to_le_bytes());
            }
            header.extend(u16::try_from(said.name.len()).unwrap().to_le_bytes());
            header.extend(u16::try_from(extra.len()).unwrap().to_le_bytes());
            header
        };
        let mut extra = Vec::new();
        if said.zip64 {
            extra.extend([1, 0, 16, 0]);
            extra.extend(u64::from(said.size).to_le_bytes());
            extra.extend(u64::from(packed).to_le_bytes());
        }
        self.bytes.extend(b"PK\x03\x04\x14\x00");
        self.bytes.extend(match (has_descriptor, said.zip64) {
            (true, _) => header(0, 0, 0, &extra),
            (_, true) => header(said.crc, u32::MAX, u32::MAX, &extra),
            _ => header(said.crc, packed, said.size, &extra),
        });
        self.bytes.extend(said.name.as_bytes());
        self.bytes.extend(&extra);
        self.bytes.extend(said.data);
        if has_descriptor {
            self.bytes.extend(b"PK\x07\x08");
            for word in [said.crc, packed, said.size] {
                self.bytes.extend(word.to_le_bytes());
            }
        }
        self.directory.extend(b"PK\x01\x02\x14\x03\x14\x00");
        self.directory.extend(header(said.crc, packed, said.size, &[]));
        self.directory.extend([0; 6]);
        self.directory.extend((said.mode << 16).to_le_bytes());
        self.directory.extend(offset.to_le_bytes());
        self.directory.extend(said.name.as_bytes());
        self.count += 1;
        self
    }

    pub(super) fn file(self, name: &str, data: &[u8]) -> Self {
        self.with(&Said::file(name, data))
    }

    pub(super) fn finish(self) -> Vec<u8> {
        // More than the field holds is cut off, as careless programs do.
        let count = self.count as u16;
        self.finish_with(count, b"")
    }

    pub(super) fn finish_with(self, count: u16, comment: &[u8]) -> Vec<u8> {
        let Self {
            mut bytes, directory, ..
        } = self;
        let offset = u32::try_from(bytes.len()).unwrap();
        bytes.extend(&directory);
        bytes.extend(b"PK\x05\x06\0\0\0\0");
        bytes.extend([count.to_le_bytes(), count.to_le_bytes()].concat());
        bytes.extend(u32::try_from(directory.len()).unwrap().to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        bytes.extend(u16::try_from(comment.len()).unwrap().to_le_bytes());
        bytes.extend(comment);
        bytes
    }
}

const SMALL: Limits = Limits {
    entries: 8,
    total: 4 << 20,
    ratio: 10,
    directory: 100_000,
};

/// Unpacks; the folder, and a check that nothing outside of it was touched.
pub(super) async fn unpack_bytes(bytes: &[u8]) -> (tempfile::TempDir, Result<(), ArchiveError>) {
    unpack_within(SMALL, bytes).await
}

pub(super) async fn unpack_within(
    limits: Limits,
    bytes: &[u8],
) -> (tempfile::TempDir, Result<(), ArchiveError>) {
    let home = tempfile::tempdir().unwrap();
    let target = home.path().join("target");
    std::fs::create_dir(&target).unwrap();
    let mut package = tempfile::tempfile().unwrap();
    package.write_all(bytes).unwrap();
    let result = unpack(File::from_std(package), &target, limits).await;
    let beside: Vec<_> = std::fs::read_dir(home.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(beside, ["target"]);
    (home, result)
}

pub(super) async fn refusal(zip: Zip) -> String {
    let (_home, result) = unpack_bytes(&zip.finish()).await;
    result.unwrap_err().to_string()
}

#[tokio::test]
async fn files_folders_and_modes_come_out() {
    let zip = Zip::default()
        .with(&Said {
            mode: 0o040_755,
            ..Said::file("sources/", b"")
        })
        .file("car.json", b"{}")
        .file("sources/json.yaml", b"default: {}")
        .with(&Said {
            mode: 0o100_755,
            ..Said::file("bin/server", b"#!")
        });
    let (home, result) = unpack_bytes(&zip.finish()).await;
    result.unwrap();
    let target = home.path().join("target");
    assert_eq!(
        std::fs::read(target.join("sources/json.yaml")).unwrap(),
        b"default: {}"
    );
    let mode = |name: &str| {
        use std::os::unix::fs::PermissionsExt;
        target.join(name).metadata().unwrap().permissions().mode() & 0o7777
    };
    assert_eq!(mode("bin/server") & 0o100, 0o100);
    assert_eq!(mode("car.json") & 0o111, 0);
}

#[tokio::test]
async fn every_cut_and_every_flipped_byte_is_refused_or_harmless() {
    let whole = Zip::default()
        .file("car.json", b"{}")
        .file("bin/server", b"hello")
        .finish();
    for cut in 0..whole.len() {
        let (_home, result) = unpack_bytes(&whole[..cut]).await;
        assert!(result.is_err(), "cut at {cut}");
    }
    for at in 0..whole.len() {
        for flip in [0x01, 0xff] {
            let mut damaged = whole.clone();
            damaged[at] ^= flip;
            // Whatever it says: it must neither panic nor touch anything outside, which is checked in there.
            let _ = unpack_bytes(&damaged).await;
        }
    }
}

#[tokio::test]
async fn a_refusal_is_one_plain_line() {
    // Something in front makes every offset wrong: what is read as a header is none.
    let shifted = [
        &b"#!/bin/sh\n"[..],
        &Zip::default().file("car.json", b"{}").finish(),
    ]
    .concat();
    let refusal = unpack_bytes(&shifted).await.1.unwrap_err().to_string();
    assert_eq!(
        refusal,
        "the package cannot be read as a zip: one of its headers is broken"
    );
}

#[tokio::test]
async fn names_that_lead_out_are_refused() {
    for name in ["../x", "a/../../x", "/tmp/x", "..", "a\\..\\x", "C:\\x", "a\nb"] {
        let text = refusal(Zip::default().file(name, b"x")).await;
        assert!(
            text.starts_with(&format!("the package holds {name:?}: ")),
            "{text}"
        );
    }
}

#[tokio::test]
async fn links_devices_and_doubles_are_refused() {
    let link = Said {
        mode: 0o120_777,
        ..Said::file("x", b"/etc/passwd")
    };
    assert!(
        refusal(Zip::default().with(&link))
            .await
            .contains("neither a file nor a folder (unix mode 120777)")
    );
    let twice = Zip::default().file("Car.json", b"").file("car.json", b"");
    assert!(
        refusal(twice)
            .await
            .contains("is there twice, or differs from another only in case")
    );
    let inside = Zip::default().file("a", b"").file("a/b", b"");
    assert!(refusal(inside).await.contains("inside of a file"));
}

#[tokio::test]
async fn encrypted_entries_are_refused_by_name() {
    let text = refusal(Zip::default().with(&Said {
        flags: 1,
        ..Said::file("secret", b"x")
    }))
    .await;
    assert_eq!(text, r#"the package holds "secret": it is encrypted"#);
}

#[tokio::test]
async fn wrong_checksums_and_sizes_are_refused() {
    let text = refusal(Zip::default().with(&Said {
        crc: 1,
        ..Said::file("x", b"data")
    }))
    .await;
    assert!(text.contains(r#""x" cannot be unpacked"#), "{text}");
    let text = refusal(Zip::default().with(&Said {
        size: 3,
        ..Said::file("x", b"data")
    }))
    .await;
    assert!(text.contains(r#""x" cannot be unpacked"#), "{text}");
}

#[tokio::test]
async fn too_many_entries_are_refused_before_anything_is_written() {
    let zip = (0..9).fold(Zip::default(), |zip, n| zip.file(&format!("f{n}"), b""));
    let (home, result) = unpack_bytes(&zip.finish()).await;
    assert!(matches!(
        result,
        Err(ArchiveError::TooMany { found: 9, limit: 8 })
    ));
    assert_eq!(std::fs::read_dir(home.path().join("target")).unwrap().count(), 0);
}

#[tokio::test]
async fn the_total_is_counted_as_it_is_written() {
    let half = vec![0; 3 << 20];
    let text = refusal(Zip::default().file("a", &half).file("b", &half)).await;
    assert_eq!(
        text,
        format!("the package unpacks to more than {} bytes", 4 << 20)
    );
}

/// A deflate stream of `blocks` stored blocks would not compress; this one repeats one byte: a literal zero
/// and then matches of length 258 at distance 1, all in one fixed-Huffman block.
fn bomb(matches: usize) -> Vec<u8> {
    let mut bits = Vec::new();
    let mut put = |value: u32, count: u32| bits.extend((0..count).map(|bit| value >> bit & 1 == 1));
    put(1, 1);
    put(1, 2);
    // Huffman codes go out with their highest bit first: literal 0 is 0x30 in 8 bits.
    put(0x30u32.reverse_bits() >> 24, 8);
    for _ in 0..matches {
        // Length 258 is symbol 285, 0xc5 in 8 bits; distance 1 is symbol 0 in 5 bits.
        put(0xc5u32.reverse_bits() >> 24, 8);
        put(0, 5);
    }
    put(0, 7);
    bits.chunks(8)
        .map(|byte| {
            byte.iter()
                .rev()
                .fold(0, |value, bit| value << 1 | u8::from(*bit))
        })
        .collect()
}

#[tokio::test]
async fn a_bomb_is_stopped_whatever_size_it_claims() {
    let packed = bomb(10_000);
    for claimed in [1, 1 + 258 * 10_000] {
        let said = Said {
            method: 8,
            size: claimed,
            ..Said::file("bomb", &packed)
        };
        let (home, result) = unpack_bytes(&Zip::default().with(&said).finish()).await;
        let error = result.unwrap_err();
        assert!(matches!(&error, ArchiveError::Bomb { limit: 10, .. }), "{error}");
        let written = home.path().join("target/bomb").metadata().unwrap().len();
        assert!(
            written <= (1 << 20) + PIECE as u64,
            "{written} bytes were written"
        );
    }
    // The same, small enough to be no bomb.
    let packed = bomb(100);
    let data = vec![0; 1 + 258 * 100];
    let said = Said {
        method: 8,
        size: data.len() as u32,
        crc: crc32(&data),
        ..Said::file("ok", &packed)
    };
    let (home, result) = unpack_bytes(&Zip::default().with(&said).finish()).await;
    result.unwrap();
    assert_eq!(std::fs::read(home.path().join("target/ok")).unwrap(), data);
}

#[tokio::test]
async fn an_offset_that_only_zip64_could_hold_is_refused() {
    let mut bytes = Zip::default().file("x", b"data").finish();
    // The last field of the only directory record before its name.
    let record = bytes
        .windows(4)
        .position(|window| window == b"PK\x01\x02")
        .unwrap();
    bytes[record + 42..record + 46].fill(0xff);
    let (_home, result) = unpack_bytes(&bytes).await;
    assert!(result.unwrap_err().to_string().contains("beyond the first 4 GiB"));
}
