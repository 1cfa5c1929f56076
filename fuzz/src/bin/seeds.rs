//! Writes inputs to begin with into `corpus/`, so that a run need not find the magic and the lengths by chance: for the targets whose features are on.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

fn main() -> io::Result<()> {
    #[cfg(feature = "model")]
    gguf_header()?;
    #[cfg(feature = "machine")]
    {
        machine_files()?;
        machine_tuned()?;
    }
    #[cfg(feature = "prefix")]
    prefix_entry()?;
    #[cfg(feature = "proto")]
    proto_frame()?;
    Ok(())
}

fn corpus(target: &str) -> io::Result<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

#[cfg(feature = "model")]
fn gguf_header() -> io::Result<()> {
    use aluco_model::gguf::{TensorType, writer::Writer};

    let model = Writer::new()
        .key("general.architecture", "llama")
        .key("llama.block_count", 30_u32)
        .key("llama.rope.freq_base", 10_000_f32)
        .key("tokenizer.ggml.add_bos_token", true)
        .key("tokenizer.ggml.tokens", vec!["a", "b", "c"])
        .key("nested", vec![vec![1_u16], vec![2, 3]])
        .tensor("token_embd.weight", &[32, 4], TensorType::Q8_0)
        .tensor("output_norm.weight", &[32], TensorType::F32);
    let folder = corpus("gguf_header")?;
    fs::write(folder.join("empty"), Writer::new().header())?;
    fs::write(folder.join("version_2"), model.clone().version(2).header())?;
    fs::write(folder.join("aligned"), model.clone().alignment(64).file())?;
    fs::write(folder.join("model"), model.header())
}

/// Two bytes that choose a file, two with its length, then what it says: the same text in each of the first files.
#[cfg(feature = "machine")]
fn everywhere(files: u16, text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for file in 0..files {
        bytes.extend(file.to_le_bytes());
        bytes.extend((text.len() as u16).to_le_bytes());
        bytes.extend(text.bytes());
    }
    bytes
}

#[cfg(feature = "machine")]
fn machine_files() -> io::Result<()> {
    let folder = corpus("machine_files")?;
    for (name, text) in [
        ("number", "8182406\n"),
        ("clocks", "0: 400Mhz \n1: 800Mhz \n2: 1000Mhz *\n"),
        (
            "assignments",
            "export HSA_XNACK=\"1\"\nOLLAMA_HOST=127.0.0.1\n",
        ),
        (
            "options",
            "options ttm pages_limit=1 \\\n page_pool_size=2\n",
        ),
    ] {
        fs::write(folder.join(name), everywhere(256, text))?;
    }
    Ok(())
}

/// A byte that chooses the machine before that.
#[cfg(feature = "machine")]
fn machine_tuned() -> io::Result<()> {
    let folder = corpus("machine_tuned")?;
    let text = "quiet amdgpu.gtt_size=122880 \"a b\" amdttm.pages_limit=1\n";
    for machine in 0..4_u8 {
        fs::write(folder.join(format!("machine_{machine}")), [machine])?;
        let bytes = [vec![machine], everywhere(48, text)].concat();
        fs::write(folder.join(format!("arguments_{machine}")), bytes)?;
    }
    Ok(())
}

#[cfg(feature = "prefix")]
fn prefix_entry() -> io::Result<()> {
    use aluco_prefix::{Entry, Fingerprint, Key, Kind, disk::format::Header};

    let folder = corpus("prefix_entry")?;
    let parent = Key::root(&Fingerprint::of([]), "");
    for (name, kind, tokens) in [
        ("block", Kind::Block, vec![1; 64]),
        ("tail", Kind::Tail, vec![1, 2, 3]),
    ] {
        let entry = Entry {
            key: parent.child(kind, &tokens),
            parent,
            kind,
            begin: 0,
            tokens: tokens.into(),
        };
        let payload = b"payload";
        let header = Header::new(Fingerprint::of([]), entry, payload).map_err(io::Error::other)?;
        fs::write(folder.join(name), [&header.encode()[..], payload].concat())?;
    }
    Ok(())
}

/// One byte that says in pieces of how many bytes the rest arrives, then the frames of messages.
#[cfg(feature = "proto")]
fn stream<T: serde::Serialize>(first: u8, messages: &[T]) -> io::Result<Vec<u8>> {
    let mut bytes = vec![first];
    for message in messages {
        bytes.extend(aluco_proto::encode(message).map_err(io::Error::other)?);
    }
    Ok(bytes)
}

#[cfg(feature = "proto")]
fn proto_frame() -> io::Result<()> {
    use aluco_proto::{Command, Event, ModelHandle, RequestId};

    let commands = [
        Command::Hello { protocol: 1 },
        Command::Cancel {
            request: RequestId(1),
        },
        Command::Tokenize {
            request: RequestId(2),
            model: ModelHandle(1),
            text: "Once upon a time".into(),
            add_special: true,
            parse_special: false,
        },
        Command::Detokenize {
            request: RequestId(3),
            model: ModelHandle(1),
            tokens: vec![1, 2, 3],
        },
    ];
    let events = [
        Event::Loading {
            request: RequestId(1),
            progress: 0.5,
        },
        Event::Text {
            request: RequestId(2),
            text: "a \"text\"\n".into(),
        },
        Event::Pong {
            sequence: 1,
            steps: 2,
            working: true,
            step_tokens: 1,
        },
    ];
    let folder = corpus("proto_frame")?;
    fs::write(folder.join("commands"), stream(7, &commands)?)?;
    fs::write(folder.join("events"), stream(200, &events)?)
}
