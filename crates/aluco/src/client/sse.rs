//! Server-sent events from bytes, in whatever pieces they arrive. Pure: the network is elsewhere.

/// Longest line that is kept, in bytes. A delta is a few hundred; only a broken server sends more than this.
const LINE_BYTES_MAX: usize = 8 << 20;

/// What a stream of events holds for us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SseEvent {
    /// The `data` of one event; of several data lines, joined by line feeds.
    Data(String),
    /// A comment line, without its colon and one leading space.
    Comment(String),
}

/// A line that is longer than any honest one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LineTooLong;

/// Reads server-sent events as WHATWG's HTML standard describes them. Names and retry times are left out: nobody here asks for them.
#[derive(Debug, Default)]
pub(crate) struct SseParser {
    line: Vec<u8>,
    /// The data lines of the event that has begun.
    data: Option<String>,
    /// The id in the lines so far.
    id: Option<String>,
    /// The id of the last event that is complete.
    last_id: Option<String>,
    /// The last byte was a carriage return, so a line feed now belongs to it.
    after_return: bool,
    /// A byte order mark can only stand before the first line.
    is_past_first_line: bool,
}

impl SseParser {
    /// Takes the next bytes, and adds the events that they complete.
    pub(crate) fn push(
        &mut self,
        bytes: &[u8],
        events: &mut Vec<SseEvent>,
    ) -> Result<(), LineTooLong> {
        let mut rest = bytes;
        if self.after_return && !rest.is_empty() {
            self.after_return = false;
            rest = rest.strip_prefix(b"\n").unwrap_or(rest);
        }
        while let Some(end) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            self.keep(&rest[..end])?;
            let is_return = rest[end] == b'\r';
            rest = &rest[end + 1..];
            if is_return {
                self.after_return = rest.is_empty();
                rest = rest.strip_prefix(b"\n").unwrap_or(rest);
            }
            self.end_line(events);
        }
        self.keep(rest)
    }

    /// The id of the last event that came whole, if any had one.
    pub(crate) fn last_id(&self) -> Option<&str> {
        self.last_id.as_deref()
    }

    /// Forgets an event that did not come whole, for it comes again.
    pub(crate) fn begin_again(&mut self) {
        *self = Self {
            id: self.last_id.clone(),
            last_id: self.last_id.take(),
            ..Self::default()
        };
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<(), LineTooLong> {
        let data_bytes = self.data.as_ref().map_or(0, String::len);
        if self.line.len() + data_bytes + bytes.len() > LINE_BYTES_MAX {
            return Err(LineTooLong);
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn end_line(&mut self, events: &mut Vec<SseEvent>) {
        let bytes = std::mem::take(&mut self.line);
        let mut line = &*String::from_utf8_lossy(&bytes);
        if !self.is_past_first_line {
            self.is_past_first_line = true;
            line = line.strip_prefix('\u{feff}').unwrap_or(line);
        }
        if line.is_empty() {
            self.last_id.clone_from(&self.id);
            events.extend(self.data.take().map(SseEvent::Data));
            return;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" => events.push(SseEvent::Comment(value.to_owned())),
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            "id" => self.id = Some(value.to_owned()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(chunks: &[&[u8]]) -> Vec<SseEvent> {
        let mut parser = SseParser::default();
        let mut events = Vec::new();
        for chunk in chunks {
            parser.push(chunk, &mut events).unwrap();
        }
        events
    }

    fn data(text: &str) -> SseEvent {
        SseEvent::Data(text.to_owned())
    }

    #[test]
    fn data_and_comments_are_told_apart() {
        assert_eq!(
            parse(&[b": prefill 512/4096\n\ndata: {\"a\":1}\n\ndata:[DONE]\n\n"]),
            [
                SseEvent::Comment("prefill 512/4096".to_owned()),
                data("{\"a\":1}"),
                data("[DONE]")
            ]
        );
    }

    #[test]
    fn data_lines_of_one_event_are_joined_and_other_fields_left_out() {
        assert_eq!(
            parse(&[b"\xef\xbb\xbfevent: x\ndata: one\nid: 7\ndata:  two\ndata\n\n"]),
            [data("one\n two\n")]
        );
    }

    #[test]
    fn an_event_without_its_empty_line_is_none() {
        assert_eq!(parse(&[b"data: cut off\n"]), []);
    }

    #[test]
    fn the_id_of_an_event_counts_only_once_the_event_is_whole() {
        let mut parser = SseParser::default();
        let mut last = |bytes: &str| {
            parser.push(bytes.as_bytes(), &mut Vec::new()).unwrap();
            parser.last_id().map(str::to_owned)
        };
        assert_eq!(last("data: x\n\n"), None);
        assert_eq!(last("id: 1\ndata: x\n\n").as_deref(), Some("1"));
        assert_eq!(last(": comment\n\nid: 2\ndata: y\n").as_deref(), Some("1"));
        assert_eq!(last("\n").as_deref(), Some("2"));
    }

    #[test]
    fn all_three_line_ends_end_a_line() {
        assert_eq!(
            parse(&[b"data: a\r\n\r\ndata: b\r\rdata: c\n\n"]),
            [data("a"), data("b"), data("c")]
        );
        assert_eq!(
            parse(&[b"data: a\r", b"\n\r", b"\ndata: b\n\n"]),
            [data("a"), data("b")]
        );
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut parser = SseParser::default();
        let piece = vec![b'x'; 1 << 20];
        let refused = (0..9).any(|_| parser.push(&piece, &mut Vec::new()).is_err());
        assert!(refused);
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_events(
            lines in prop::collection::vec("(data: |data:|: |event: )?[a-zé→ ]{0,12}(\n|\r|\r\n|\n\n)", 0..20),
            cuts in prop::collection::vec(0_usize..400, 0..30),
        ) {
            let text = lines.concat();
            let bytes = text.as_bytes();
            let mut borders: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            borders.extend([0, bytes.len()]);
            borders.sort_unstable();
            let chunks: Vec<&[u8]> = borders.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(parse(&chunks), parse(&[bytes]));
        }
    }
}
