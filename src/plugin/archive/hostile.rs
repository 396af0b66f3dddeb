//! Archives that somebody made to do harm, and odd ones that are fine. That nothing outside of the target is
//! touched is checked for each of them by what unpacks it.

use std::os::unix::fs::PermissionsExt;

use super::tests::{Said, Zip, refusal, unpack_bytes, unpack_within};
use super::*;

#[tokio::test]
async fn twins_are_refused_whatever_makes_them_one() {
    for (one, other) in [
        ("x", "x"),
        ("Bin/x", "bIN/x"),
        ("caf\u{e9}", "cafe\u{301}"),
        ("\u{c9}/x", "e\u{301}/y"),
        // Only the folders are twins.
        ("bin/x", "BIN/y"),
        ("a/b/x", "a/B/y"),
    ] {
        let text = refusal(Zip::default().file(one, b"1").file(other, b"2")).await;
        assert!(text.contains("is there twice"), "{one:?} {other:?}: {text}");
    }
    for (one, other) in [("a", "a/b"), ("a/b", "a"), ("A", "a/b"), ("a/b/c", "a/B")] {
        let text = refusal(Zip::default().file(one, b"1").file(other, b"2")).await;
        assert!(text.contains("inside of a file"), "{one:?} {other:?}: {text}");
    }
}

#[tokio::test]
async fn names_that_no_file_system_takes_are_refused_before_anything_is_written() {
    let long = "x".repeat(300);
    let huge = "y/".repeat(10_000);
    for name in [
        &*long,
        &huge,
        "a\0b",
        "a\\..\\b",
        "a/\u{7}",
        "nul:",
        "..",
        "./x",
        "/",
        "x/../../y",
    ] {
        let zip = Zip::default().file("first", b"1").file(name, b"2");
        let (home, result) = unpack_bytes(&zip.finish()).await;
        let error = result.unwrap_err();
        assert!(matches!(error, ArchiveError::Entry { .. }), "{error}");
        // Long names are not repeated at length.
        assert!(error.to_string().len() < 400, "{error}");
        assert_eq!(home.path().join("target").read_dir().unwrap().count(), 0);
    }
}

#[tokio::test]
async fn what_only_other_systems_mind_is_an_ordinary_file() {
    let names = [
        "CON",
        "aux.txt",
        "nul",
        "com1",
        "trailing.",
        "trailing ",
        "~",
        "-rf",
        "$(id)",
    ];
    for name in names {
        let (home, result) = unpack_bytes(&Zip::default().file(name, b"x").finish()).await;
        result.unwrap();
        let path = home.path().join("target").join(name);
        assert_eq!(std::fs::read(path).unwrap(), b"x", "{name:?}");
    }
}

#[tokio::test]
async fn special_bits_are_dropped() {
    for bits in [0o4000, 0o2000, 0o1000, 0o7000] {
        let said = Said {
            mode: 0o100_777 | bits,
            ..Said::file("x", b"#!/bin/sh")
        };
        let (home, result) = unpack_bytes(&Zip::default().with(&said).finish()).await;
        result.unwrap();
        let mode = home
            .path()
            .join("target/x")
            .metadata()
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o7022, 0, "{mode:o}");
    }
}

#[tokio::test]
async fn a_link_is_never_followed_since_there_is_none() {
    // The classic pair: a link that leads out, and a file that is written through it.
    let link = Said {
        mode: 0o120_777,
        ..Said::file("out", b"/tmp")
    };
    let text = refusal(Zip::default().with(&link).file("out/x", b"x")).await;
    assert!(text.contains("neither a file nor a folder"), "{text}");
}

#[tokio::test]
async fn entries_that_share_their_bytes_are_refused() {
    let mut zip = Zip::default().file("a", b"data");
    let mut alias = zip.directory.clone();
    *alias.last_mut().unwrap() = b'b';
    zip.directory.extend(alias);
    zip.count += 1;
    assert!(
        refusal(zip)
            .await
            .contains("overlaps another entry or the directory")
    );
    // One file that has the next one's header in its data, as quoting bombs have.
    let inner = Zip::default().file("b", b"payload");
    let mut zip = Zip::default().file("a", &inner.bytes);
    let mut record = inner.directory.clone();
    let offset = (zip.bytes.len() - inner.bytes.len()) as u32;
    record[42..46].copy_from_slice(&offset.to_le_bytes());
    zip.directory.extend(record);
    zip.count += 1;
    assert!(refusal(zip).await.contains("overlaps another entry"));
    // And one that reaches into the directory.
    let mut zip = Zip::default().file("a", b"data");
    zip.directory[20..24].copy_from_slice(&50u32.to_le_bytes());
    assert!(
        refusal(zip)
            .await
            .contains("overlaps another entry or the directory")
    );
}

/// So many records, which all lead to the same empty file.
fn crowd(count: u32) -> Zip {
    let mut zip = Zip::default().file("......", b"");
    let record = std::mem::take(&mut zip.directory);
    for number in 0..count {
        zip.directory.extend(&record);
        let end = zip.directory.len();
        zip.directory[end - 6..].copy_from_slice(format!("{number:06}").as_bytes());
    }
    zip.count = count;
    zip
}

#[tokio::test]
async fn a_hundred_thousand_entries_are_refused_whatever_count_is_said() {
    for said in [0, 1, 100, u16::MAX] {
        let bytes = crowd(100_000).finish_with(said, b"");
        let (home, result) = unpack_within(Limits::default(), &bytes).await;
        let error = result.unwrap_err();
        assert!(matches!(error, ArchiveError::Zip(_)), "{said}: {error}");
        assert_eq!(home.path().join("target").read_dir().unwrap().count(), 0);
    }
    let honest = crowd(60_000).finish();
    let (_home, result) = unpack_within(Limits::default(), &honest).await;
    assert_eq!(
        result.unwrap_err().to_string(),
        "the package has 60000 entries; at most 20000 are allowed"
    );
}

#[tokio::test]
async fn a_directory_without_end_is_read_up_to_the_limit() {
    // It says that it has one entry; the library believes its eyes and reads on.
    let bytes = crowd(10_000).finish_with(1, b"");
    let (_home, result) = unpack_bytes(&bytes).await;
    assert_eq!(
        result.unwrap_err().to_string(),
        "the package's directory has more than 100000 bytes"
    );
}

#[tokio::test]
async fn a_comment_full_of_false_ends_is_no_way_to_make_the_host_search_for_ever() {
    let comment = b"PK\x05\x06".repeat(16_000);
    let bytes = Zip::default().file("x", b"data").finish_with(1, &comment);
    let (_home, result) = unpack_bytes(&bytes).await;
    result.unwrap_err();
}

#[tokio::test]
async fn archives_of_programs_that_write_to_a_pipe_and_of_those_that_prepare_for_the_worst_are_fine() {
    // The sizes follow the data, or stand in a field for 64 bits; larger than what a bomb may always have.
    let data: Vec<u8> = (0..2u32 << 20).map(|byte| ((byte * 31) >> 3) as u8).collect();
    let descriptor = Said {
        flags: 8,
        ..Said::file("descriptor", &data)
    };
    let zip64 = Said {
        zip64: true,
        ..Said::file("zip64", b"data")
    };
    let zip = Zip::default().with(&descriptor).with(&zip64).file("last", b"");
    let (home, result) = unpack_bytes(&zip.finish()).await;
    result.unwrap();
    let target = home.path().join("target");
    assert!(std::fs::read(target.join("descriptor")).unwrap() == data);
    assert_eq!(std::fs::read(target.join("zip64")).unwrap(), b"data");
}

#[tokio::test]
async fn unknown_ways_of_packing_are_refused() {
    for method in [1, 9, 12, 93, 98, 99, 1234] {
        let said = Said {
            method,
            ..Said::file("x", b"data")
        };
        let (_home, result) = unpack_bytes(&Zip::default().with(&said).finish()).await;
        assert!(matches!(result, Err(ArchiveError::Zip(_))), "{method}");
    }
}

#[tokio::test]
async fn no_changed_byte_leads_out_or_ends_the_host() {
    let descriptor = Said {
        flags: 8,
        ..Said::file("bin/descriptor", b"data")
    };
    let zip64 = Said {
        zip64: true,
        mode: 0o100_755,
        ..Said::file("zip64", b"data")
    };
    let folder = Said {
        mode: 0o040_755,
        ..Said::file("bin/", b"")
    };
    let whole = Zip::default()
        .with(&folder)
        .with(&descriptor)
        .with(&zip64)
        .finish();
    unpack_bytes(&whole).await.1.unwrap();
    for at in 0..whole.len() {
        for byte in [0, 0x2f, 0xff] {
            let mut changed = whole.clone();
            changed[at] = byte;
            // Refused or not: it must not panic, and that nothing outside is touched is checked in there.
            let _either = unpack_bytes(&changed).await;
        }
    }
}
