//! What may come back.

use serde_json::Value;

use super::cases::Case;

/// What is wrong with what came back on a connection.
pub(super) fn fault(reply: &[u8], case: &Case) -> Option<String> {
    if case.reads_max < usize::MAX {
        return None;
    }
    if reply.is_empty() {
        return case.deserves_answer.then(|| "no answer".to_owned());
    }
    let mut rest = reply;
    let mut is_first = true;
    while !rest.is_empty() {
        match one(rest, case.has_bodies) {
            Ok(after) => rest = after,
            // Where there are replies without bodies among others, only the first can be told.
            Err(_) if !case.has_bodies && !is_first => return None,
            // A connection whose request was refused is cut, and what had been written may be lost.
            Err(fault) if !case.deserves_answer && fault.is_cut => return None,
            Err(fault) => {
                let shown = String::from_utf8_lossy(&reply[..reply.len().min(2_000)]);
                return Some(format!("{} in\n{shown}", fault.what));
            }
        }
        is_first = false;
    }
    None
}

struct Fault {
    what: String,
    /// The reply is not whole.
    is_cut: bool,
}

fn wrong(what: impl Into<String>) -> Fault {
    Fault {
        what: what.into(),
        is_cut: false,
    }
}

fn cut() -> Fault {
    Fault {
        what: "the reply is not whole".to_owned(),
        is_cut: true,
    }
}

/// Looks at the first reply; gives what follows it.
fn one(reply: &[u8], has_body: bool) -> Result<&[u8], Fault> {
    let end = find(reply, b"\r\n\r\n").ok_or_else(cut)?;
    let head = str::from_utf8(&reply[..end]).map_err(|_| wrong("a head that is no text"))?;
    let mut rest = &reply[end + 4..];
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| {
        let (version, rest) = line.split_once(' ')?;
        version.starts_with("HTTP/1.").then_some(())?;
        rest.get(..3)?.parse::<u16>().ok()
    });
    let status = status.ok_or_else(|| wrong("no status"))?;
    if status >= 500 && status != 503 {
        return Err(wrong("a fault of the server"));
    }
    if status < 200 {
        return Ok(rest);
    }
    let header = |name: &str| {
        head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    };
    let mut body = Vec::new();
    if has_body {
        if header("transfer-encoding").is_some() {
            rest = unchunk(rest, &mut body)?;
        } else if let Some(length) = header("content-length") {
            let length: usize = length.parse().map_err(|_| wrong("a strange length"))?;
            let (mine, after) = rest.split_at_checked(length).ok_or_else(cut)?;
            body.extend(mine);
            rest = after;
        } else {
            body.extend(std::mem::take(&mut rest));
        }
    }
    // Without an id of its own the request never got beyond the reading of HTTP.
    if has_body && header("x-request-id").is_some() {
        if status >= 400 {
            check_error(&body)?;
        } else if header("content-type") == Some("text/event-stream") {
            check_stream(&body)?;
        }
    }
    Ok(rest)
}

/// An error is in OpenAI's form.
fn check_error(body: &[u8]) -> Result<(), Fault> {
    let json: Value = serde_json::from_slice(body).map_err(|_| wrong("an error without JSON"))?;
    let error = &json["error"];
    let message = error["message"].as_str().unwrap_or_default();
    let has_param = error["param"].is_string() || error["param"].is_null();
    if message.is_empty() || !error["type"].is_string() || !error["code"].is_string() || !has_param
    {
        return Err(wrong("an error of another form"));
    }
    Ok(())
}

/// A stream ends with `[DONE]`, with the model that was loaded, or with an error that is nobody's fault here.
fn check_stream(body: &[u8]) -> Result<(), Fault> {
    let text = str::from_utf8(body).map_err(|_| wrong("a stream that is no text"))?;
    let mut data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    let last = data.next_back().ok_or_else(|| wrong("an empty stream"))?;
    if last == "[DONE]" || text.contains("event: loaded\n") {
        return Ok(());
    }
    let last: Value = serde_json::from_str(last).map_err(|_| wrong("a stream without an end"))?;
    match last["error"]["code"].as_str() {
        // Another client unloads the model now and then.
        Some(
            "cancelled" | "stream_cancelled" | "stream_truncated" | "overloaded"
            | "model_not_found" | "model_unusable" | "model_unloaded",
        ) => Ok(()),
        _ => Err(wrong("a stream that ends otherwise")),
    }
}

fn unchunk<'a>(mut rest: &'a [u8], body: &mut Vec<u8>) -> Result<&'a [u8], Fault> {
    loop {
        let end = find(rest, b"\r\n").ok_or_else(cut)?;
        let size = str::from_utf8(&rest[..end]).ok();
        let size = size.and_then(|size| usize::from_str_radix(size, 16).ok());
        let size = size.ok_or_else(|| wrong("a chunk of strange size"))?;
        let (chunk, after) = rest[end + 2..].split_at_checked(size).ok_or_else(cut)?;
        body.extend(chunk);
        rest = after.strip_prefix(b"\r\n").ok_or_else(cut)?;
        if size == 0 {
            return Ok(rest);
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
