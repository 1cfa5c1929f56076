//! A place in a byte stream that never goes further than it may.

use std::{
    fmt,
    io::{self, BufRead, BufReader, Read},
};

use super::GgufError;

/// Reads the little-endian pieces of a header and counts its bytes. `subject` names what is being read, for errors; it is only
/// written out if there is one.
pub(super) struct Cursor<R> {
    reader: BufReader<R>,
    offset: u64,
    bytes_max: u64,
}

impl<R: Read> Cursor<R> {
    /// At the start of a stream of which no more than `bytes_max` are header.
    pub(super) fn new(reader: R, bytes_max: u64) -> Self {
        Self {
            reader: BufReader::with_capacity(64 << 10, reader),
            offset: 0,
            bytes_max,
        }
    }

    /// Bytes read so far.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    pub(super) fn u32(&mut self, subject: fmt::Arguments<'_>) -> Result<u32, GgufError> {
        self.bytes(subject).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, subject: fmt::Arguments<'_>) -> Result<u64, GgufError> {
        self.bytes(subject).map(u64::from_le_bytes)
    }

    /// The next bytes, as many as the type says.
    pub(super) fn bytes<const N: usize>(
        &mut self,
        subject: fmt::Arguments<'_>,
    ) -> Result<[u8; N], GgufError> {
        self.claim(N as u64, subject)?;
        let mut bytes = [0; N];
        let mut filled = 0;
        while filled < N {
            match self.reader.read(&mut bytes[filled..]) {
                Ok(0) => return Err(self.cut(subject)),
                Ok(read) => {
                    filled += read;
                    self.offset += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(bytes)
    }

    /// A length, then as many bytes. Memory grows with the bytes that come, not with the length that is claimed.
    pub(super) fn byte_string(
        &mut self,
        bytes_max: u64,
        subject: fmt::Arguments<'_>,
    ) -> Result<Vec<u8>, GgufError> {
        let length = self.count("bytes of text", bytes_max, subject)?;
        self.claim(length, subject)?;
        let mut bytes = Vec::new();
        let read = self.reader.by_ref().take(length).read_to_end(&mut bytes)?;
        self.offset += read as u64;
        if (read as u64) < length {
            return Err(self.cut(subject));
        }
        Ok(bytes)
    }

    /// A number of `what`, of which there may be `max`.
    pub(super) fn count(
        &mut self,
        what: &'static str,
        max: u64,
        subject: fmt::Arguments<'_>,
    ) -> Result<u64, GgufError> {
        let offset = self.offset;
        let claimed = self.u64(subject)?;
        if claimed > max {
            return Err(GgufError::OverLimit {
                offset,
                subject: subject.to_string(),
                what,
                claimed,
                max,
            });
        }
        Ok(claimed)
    }

    /// Passes over bytes.
    pub(super) fn skip(
        &mut self,
        mut bytes: u64,
        subject: fmt::Arguments<'_>,
    ) -> Result<(), GgufError> {
        self.claim(bytes, subject)?;
        while bytes > 0 {
            let here = match self.reader.fill_buf() {
                Ok(buffer) => (buffer.len() as u64).min(bytes),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            if here == 0 {
                return Err(self.cut(subject));
            }
            self.reader.consume(here as usize);
            self.offset += here;
            bytes -= here;
        }
        Ok(())
    }

    /// Refuses what would lead over the end of the longest header that is accepted.
    pub(super) fn claim(&self, bytes: u64, subject: fmt::Arguments<'_>) -> Result<(), GgufError> {
        let end = self.offset.saturating_add(bytes);
        if end > self.bytes_max {
            return Err(GgufError::OverLimit {
                offset: self.offset,
                subject: subject.to_string(),
                what: "bytes of header",
                claimed: end,
                max: self.bytes_max,
            });
        }
        Ok(())
    }

    fn cut(&self, subject: fmt::Arguments<'_>) -> GgufError {
        GgufError::HeaderCut {
            offset: self.offset,
            subject: subject.to_string(),
        }
    }
}
