//! How received messages are printed. Pure: bytes to bytes.

use clap::ValueEnum;
use std::fmt::Write as _;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Not at all
    No,
    /// As it is, without a mark at the end
    Raw,
    /// A line each (nngcat ends no line here), with a dot for what is not printable ASCII
    Ascii,
    /// A line each, in double quotes with C escapes
    Quoted,
    /// A line each, in double quotes, every byte as \xNN
    Hex,
    /// As a binary of MessagePack
    Msgpack,
}

impl Format {
    pub(crate) fn encode(self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::No => Vec::new(),
            Self::Raw => message.to_vec(),
            Self::Ascii => {
                let printable = |byte: &u8| if matches!(byte, b' '..=b'~') { *byte } else { b'.' };
                let mut line: Vec<u8> = message.iter().map(printable).collect();
                line.push(b'\n');
                line
            }
            Self::Quoted => quoted(message, |line, byte| match byte {
                b'\n' => line.push_str("\\n"),
                b'\r' => line.push_str("\\r"),
                b'\t' => line.push_str("\\t"),
                b'"' | b'\\' => line.extend(['\\', byte.into()]),
                b' '..=b'~' => line.push(byte.into()),
                byte => hex(line, byte),
            }),
            Self::Hex => quoted(message, hex),
            Self::Msgpack => {
                let head = match (u8::try_from(message.len()), u16::try_from(message.len())) {
                    (Ok(length), _) => vec![0xc4, length],
                    (_, Ok(length)) => [&[0xc5][..], &length.to_be_bytes()].concat(),
                    // Longer ones cannot be said in MessagePack.
                    _ => {
                        let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
                        [&[0xc6][..], &length.to_be_bytes()].concat()
                    }
                };
                [&head, message].concat()
            }
        }
    }
}

fn quoted(message: &[u8], escape: impl Fn(&mut String, u8)) -> Vec<u8> {
    let mut line = String::from("\"");
    message.iter().for_each(|byte| escape(&mut line, *byte));
    line.push_str("\"\n");
    line.into_bytes()
}

fn hex(line: &mut String, byte: u8) {
    // Writing to a string does not fail.
    let _ = write!(line, "\\x{byte:02x}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_is_byte_exact() {
        let message = b"a\"\\\n\r\t\0\xff ~";
        for (format, expected) in [
            (Format::No, &b""[..]),
            (Format::Raw, message),
            (Format::Ascii, b"a\"\\..... ~\n"),
            (Format::Quoted, b"\"a\\\"\\\\\\n\\r\\t\\x00\\xff ~\"\n"),
            (
                Format::Hex,
                b"\"\\x61\\x22\\x5c\\x0a\\x0d\\x09\\x00\\xff\\x20\\x7e\"\n",
            ),
            (Format::Msgpack, b"\xc4\x0aa\"\\\n\r\t\0\xff ~"),
        ] {
            assert_eq!(format.encode(message), expected, "{format:?}");
        }
        assert_eq!(Format::Quoted.encode(b""), b"\"\"\n");
        assert_eq!(Format::Msgpack.encode(&[0; 256])[..4], [0xc5, 1, 0, 0]);
        assert_eq!(Format::Msgpack.encode(&[0; 65536])[..6], [0xc6, 0, 1, 0, 0, 0]);
    }
}
