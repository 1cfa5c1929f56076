//! Writes inputs to begin with into `corpus/`, so that a run need not find the magic and the lengths by chance.

use std::{fs, io, path::Path};

use aluco_model::gguf::{TensorType, writer::Writer};
use aluco_prefix::{Entry, Fingerprint, Key, Kind, disk::format::Header};
use aluco_proto::{Command, Event, ModelHandle, RequestId, encode};
use serde::Serialize;

/// One byte, then the frames of messages.
fn stream<T: Serialize>(first: u8, messages: &[T]) -> io::Result<Vec<u8>> {
    let mut bytes = vec![first];
    for message in messages {
        bytes.extend(encode(message).map_err(io::Error::other)?);
    }
    Ok(bytes)
}

fn main() -> io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let model = Writer::new()
        .key("general.architecture", "llama")
        .key("llama.block_count", 30_u32)
        .key("llama.rope.freq_base", 10_000_f32)
        .key("tokenizer.ggml.add_bos_token", true)
        .key("tokenizer.ggml.tokens", vec!["a", "b", "c"])
        .key("nested", vec![vec![1_u16], vec![2, 3]])
        .tensor("token_embd.weight", &[32, 4], TensorType::Q8_0)
        .tensor("output_norm.weight", &[32], TensorType::F32);
    let gguf = corpus.join("gguf_header");
    fs::create_dir_all(&gguf)?;
    fs::write(gguf.join("empty"), Writer::new().header())?;
    fs::write(gguf.join("version_2"), model.clone().version(2).header())?;
    fs::write(gguf.join("aligned"), model.clone().alignment(64).file())?;
    fs::write(gguf.join("model"), model.header())?;

    // Two bytes that choose a file, two with its length, then what it says.
    let machine = corpus.join("machine_files");
    fs::create_dir_all(&machine)?;
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
        let mut bytes = Vec::new();
        for file in 0..=255_u16 {
            bytes.extend(file.to_le_bytes());
            bytes.extend((text.len() as u16).to_le_bytes());
            bytes.extend(text.bytes());
        }
        fs::write(machine.join(name), bytes)?;
    }

    // A byte that chooses the machine before that.
    let tuned = corpus.join("machine_tuned");
    fs::create_dir_all(&tuned)?;
    for machine in 0..4_u8 {
        fs::write(tuned.join(format!("machine_{machine}")), [machine])?;
        let text = "quiet amdgpu.gtt_size=122880 \"a b\" amdttm.pages_limit=1\n";
        let mut bytes = vec![machine];
        for file in 0..48_u16 {
            bytes.extend(file.to_le_bytes());
            bytes.extend((text.len() as u16).to_le_bytes());
            bytes.extend(text.bytes());
        }
        fs::write(tuned.join(format!("arguments_{machine}")), bytes)?;
    }

    let entries = corpus.join("prefix_entry");
    fs::create_dir_all(&entries)?;
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
        fs::write(entries.join(name), [&header.encode()[..], payload].concat())?;
    }

    let frames = corpus.join("proto_frame");
    fs::create_dir_all(&frames)?;
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
    // The first byte says in pieces of how many bytes the rest arrives.
    fs::write(frames.join("commands"), stream(7, &commands)?)?;
    fs::write(frames.join("events"), stream(200, &events)?)
}
