//! Writers that are killed in the middle of their work.

use std::{
    env,
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, SystemTime},
};

use aluco_prefix::{Entry, Fingerprint, Key, Kind, disk::Folder};

/// Set in the processes that write: the root.
const ROOT: &str = "ALUCO_TEST_PREFIX_ROOT";
/// Set as well: the number of their first entry.
const FIRST: &str = "ALUCO_TEST_PREFIX_FIRST";

const PAYLOAD_BYTES_MAX: usize = 1 << 18;

fn open(root: &Path) -> Folder {
    let facts = [("model".to_owned(), "owl".to_owned())];
    Folder::open(root, Fingerprint::of([("model", "owl")]), &facts).unwrap()
}

fn entry(number: i32) -> Entry {
    let parent = Key::root(&Fingerprint::of([("model", "owl")]), "");
    let tokens: Box<[i32]> = (number..number + 64).collect();
    Entry {
        key: parent.child(Kind::Block, &tokens),
        parent,
        kind: Kind::Block,
        begin: 0,
        tokens,
    }
}

/// Another length and other bytes for each.
fn payload(noise: &[u8], number: i32) -> &[u8] {
    let number = number as usize;
    let from = number * 7919 % 10_000;
    &noise[from..from + number * 104_729 % PAYLOAD_BYTES_MAX]
}

fn noise() -> Vec<u8> {
    let bytes = PAYLOAD_BYTES_MAX + 10_000;
    let mut state = 1_u32;
    let noise = (0..bytes).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    });
    noise.collect()
}

/// Entries that a writer writes at most: if it is killed late, it must not have filled the disk.
const WRITTEN_MAX: i32 = 200;

/// Writes entries until it is killed, and says each that is finished.
fn write_until_killed(root: &OsStr) -> ! {
    let first: i32 = env::var(FIRST).unwrap().parse().unwrap();
    let folder = open(root.as_ref());
    let noise = noise();
    let mut output = std::io::stdout().lock();
    for number in first..first + WRITTEN_MAX {
        let entry = entry(number);
        folder.write(&entry, payload(&noise, number)).unwrap();
        folder.pin(&entry.key, number % 2 == 0).unwrap();
        folder.touch(&entry.key);
        writeln!(output, "wrote {number}").unwrap();
        output.flush().unwrap();
    }
    loop {
        std::thread::park();
    }
}

/// A process of this very program that writes, when it has begun to.
fn writer(root: &Path, first: i32) -> (Child, BufReader<ChildStdout>) {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture"])
        .env(ROOT, root)
        .env(FIRST, first.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("wrote ") {
        line.clear();
        assert_ne!(output.read_line(&mut line).unwrap(), 0, "a writer ended");
    }
    (child, output)
}

const TEST: &str = "whatever_the_moment_of_the_kill_all_that_is_found_is_whole";

#[test]
fn whatever_the_moment_of_the_kill_all_that_is_found_is_whole() {
    if let Some(root) = env::var_os(ROOT) {
        write_until_killed(&root);
    }
    let root = tempfile::tempdir().unwrap();
    let noise = noise();
    let mut state = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .subsec_nanos();
    println!("seed {state}");
    let (mut checked, mut torn) = (0, 0);
    for round in 1..=20 {
        let first = round * 100_000;
        // Two at a time, which write the same entries.
        let mut writers = [writer(root.path(), first), writer(root.path(), first)];
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        std::thread::sleep(Duration::from_micros(u64::from(state >> 17)));
        for (child, _) in &mut writers {
            child.kill().unwrap();
        }
        let mut finished = vec![first];
        for (mut child, mut output) in writers {
            child.wait().unwrap();
            let mut text = String::new();
            output.read_to_string(&mut text).unwrap();
            // The last line may be torn as well.
            let lines = text.split_inclusive('\n').filter(|l| l.ends_with('\n'));
            finished.extend(lines.map(|line| {
                let number = line.trim().strip_prefix("wrote ").unwrap();
                number.parse::<i32>().unwrap()
            }));
        }

        let folder = open(root.path());
        let survey = folder.survey();
        assert_eq!(survey.damaged, []);
        for number in finished {
            let found = survey.found.iter().find(|f| f.entry == entry(number));
            assert!(found.is_some(), "entry {number} was finished and is gone");
        }
        for found in survey.found {
            let number = found.entry.tokens[0];
            let read = folder.read(&found.entry.key).unwrap().unwrap();
            assert!(read == (entry(number), payload(&noise, number).to_vec()));
            folder.remove(&found.entry.key).unwrap();
            checked += 1;
        }
        let new = folder.path().join("new");
        for file in fs::read_dir(&new).unwrap().flatten() {
            let long_ago = SystemTime::now() - Duration::from_secs(4000);
            let file = fs::File::open(file.path()).unwrap();
            file.set_modified(long_ago).unwrap();
            torn += 1;
        }
        let folder = open(root.path());
        assert_eq!(fs::read_dir(&new).unwrap().count(), 0);
        assert!(folder.remove_if_empty());
    }
    println!("{checked} entries were whole, {torn} files were torn");
    assert!(checked >= 20);
}
