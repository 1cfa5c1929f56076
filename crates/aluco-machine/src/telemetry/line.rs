//! The kernel's messages as `/dev/kmsg` and as `journalctl` hand them out.

use std::time::Duration;

/// A record of `/dev/kmsg`: `PRIORITY,SEQUENCE,MICROSECONDS,FLAGS;TEXT`, then lines that begin with a space. Bytes that are no
/// printable ASCII are written `\xNN` (Documentation/ABI/testing/dev-kmsg).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KmsgRecord {
    /// 0 (emergency) to 7 (debug).
    pub level: u8,
    /// 0 is the kernel itself; others are what programs wrote into its log.
    pub facility: u32,
    /// Numbers records; gaps mean that the buffer was overwritten.
    pub sequence: u64,
    /// Since boot, by the kernel's own clock.
    pub at: Duration,
    /// The message, without control characters.
    pub text: String,
}

/// A message with the kernel's time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Since boot, by the kernel's own clock.
    pub at: Duration,
    /// The message, without control characters.
    pub text: String,
}

/// Reads a record of `/dev/kmsg`; `None` if it is none.
pub fn parse_kmsg(record: &[u8]) -> Option<KmsgRecord> {
    let semicolon = record.iter().position(|byte| *byte == b';')?;
    let header = std::str::from_utf8(&record[..semicolon]).ok()?;
    let mut fields = header.split(',');
    let priority: u32 = fields.next()?.parse().ok()?;
    let sequence = fields.next()?.parse().ok()?;
    let at_us = fields.next()?.parse().ok()?;
    let text = record[semicolon + 1..]
        .split(|byte| *byte == b'\n')
        .next()?;
    Some(KmsgRecord {
        level: (priority & 7) as u8,
        facility: priority >> 3,
        sequence,
        at: Duration::from_micros(at_us),
        text: printable(&unescaped(text)),
    })
}

/// Reads a line of `journalctl -k -o short-monotonic` or of `dmesg`: `[  950.818166] HOST kernel: TEXT` or without `HOST kernel:`;
/// `None` if it is none.
pub fn parse_monotonic_line(line: &[u8]) -> Option<LogLine> {
    let line = line.strip_prefix(b"[")?;
    let bracket = line.iter().position(|byte| *byte == b']')?;
    let time = std::str::from_utf8(&line[..bracket]).ok()?.trim();
    let (seconds, micros) = time.split_once('.')?;
    let seconds: u64 = seconds.parse().ok()?;
    if micros.len() != 6 || !micros.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let micros = micros.parse().ok()?;
    let text = String::from_utf8_lossy(&line[bracket + 1..]);
    let text = text.trim_end_matches(['\n', '\r']);
    let text = text.strip_prefix(' ').unwrap_or(text);
    let text = match text.split_once(" kernel: ") {
        Some((host, text)) if !host.contains(' ') => text,
        _ => text,
    };
    Some(LogLine {
        at: Duration::from_secs(seconds).saturating_add(Duration::from_micros(micros)),
        text: printable(text),
    })
}

/// `\xNN` as the byte that it means.
fn unescaped(text: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, others)) = rest.split_first() {
        let escaped = rest
            .strip_prefix(br"\x")
            .and_then(|digits| digits.get(..2))
            .filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        if let Some(byte) = escaped {
            bytes.push(byte);
            rest = &rest[4..];
        } else {
            bytes.push(*first);
            rest = others;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn printable(text: &str) -> String {
    text.chars()
        .map(|letter| {
            if letter.is_control() && letter != '\t' {
                '\u{fffd}'
            } else {
                letter
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_record_is_read_with_its_escapes_and_without_its_properties() {
        let record = b"3,1234,950818166,-;amdgpu 0000:c5:00.0: caf\\xc3\\xa9 \\x1b[31m\n SUBSYSTEM=pci\n DEVICE=+pci:0000:c5:00.0\n";
        assert_eq!(
            parse_kmsg(record),
            Some(KmsgRecord {
                level: 3,
                facility: 0,
                sequence: 1234,
                at: Duration::from_micros(950_818_166),
                text: "amdgpu 0000:c5:00.0: caf\u{e9} \u{fffd}[31m".to_owned(),
            })
        );
        assert_eq!(
            parse_kmsg(b"30,1,2,-,caller=T1;x").map(|r| (r.facility, r.level)),
            Some((3, 6))
        );
    }

    #[test]
    fn lines_of_the_journal_and_of_dmesg_are_read() {
        let expected = LogLine {
            at: Duration::from_micros(950_818_166),
            text: "amdgpu 0000:c5:00.0: amdgpu: kernel: x".to_owned(),
        };
        for line in [
            "[  950.818166] amdgpu 0000:c5:00.0: amdgpu: kernel: x",
            "[  950.818166] host kernel: amdgpu 0000:c5:00.0: amdgpu: kernel: x\n",
        ] {
            assert_eq!(
                parse_monotonic_line(line.as_bytes()),
                Some(expected.clone())
            );
        }
        for line in [
            "",
            "[",
            "[x] y",
            "[1.5] y",
            "-- Boot 1 --",
            "[18446744073709551616.000000] y",
        ] {
            assert_eq!(parse_monotonic_line(line.as_bytes()), None, "{line}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = (parse_kmsg(&bytes), parse_monotonic_line(&bytes));
        }

        #[test]
        fn any_message_is_read_as_it_was_written(text in "[ -\\[\\]-~]{0,60}", at_us: u64) {
            let record = format!("6,7,{at_us},-;{text}\n K=V\n");
            let record = parse_kmsg(record.as_bytes()).expect("a record");
            prop_assert_eq!(record.text, text);
            prop_assert_eq!(record.at, Duration::from_micros(at_us));
        }
    }
}
