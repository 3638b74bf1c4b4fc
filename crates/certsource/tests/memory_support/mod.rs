//! Searches this process's own memory for secrets that should be gone, and runs a test in a process that never held them
//! otherwise: who mints a key has copies of it all over. A needle is kept behind a mask, so that it does not find itself.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "only tests live here")]

use std::env;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::hint::black_box;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use certsource::pem::{self, Content};
use certsource_testkit::TestDir;

const DIRECTORY: &str = "CERTSOURCE_TEST_MEMORY";
const MASK: u8 = 0xa5;
/// Long enough that no other memory holds the same by chance; short enough to find a piece of a key.
const LENGTH: usize = 12;
const CHUNK: usize = 64 * 1024;

/// A piece of a secret.
pub struct Needle {
    /// Whose secret, and in which form: `NAME.der`, `NAME.text`.
    name: String,
    masked: Vec<u8>,
}

/// Needles of the private half of a P-256 or Ed25519 key: of its DER, and of its PEM text.
pub fn needles_of(name: &str, key: &str) -> Vec<Needle> {
    let section = pem::sections(key.as_bytes()).next().unwrap().unwrap();
    let Content::PrivateKey(der) = section.content else { panic!("{name} is no private key") };
    let der = der.secret_der();
    // PKCS#8 and SEC1 alike: the first OCTET STRING of 32 octets.
    let start = der.windows(2).position(|two| two == [0x04, 0x20]).unwrap() + 2;
    let secret = &der[start..start + 32];
    let mut needles = pieces(&format!("{name}.der"), secret, 8);
    let body: Vec<&str> = key.lines().filter(|line| !line.starts_with('-')).collect();
    let (first, last) = (start.div_ceil(3) * 4, (start + 32) / 3 * 4);
    for (number, line) in body.iter().enumerate() {
        let from = first.saturating_sub(number * 64).min(line.len());
        let to = last.saturating_sub(number * 64).min(line.len());
        needles.extend(pieces(&format!("{name}.text"), &line.as_bytes()[from..to], LENGTH));
    }
    assert!(needles.iter().any(|needle| needle.name.ends_with(".text")), "{name} has no text to look for");
    needles
}

/// Needles of any other secret.
pub fn needles_of_bytes(name: &str, secret: &[u8]) -> Vec<Needle> {
    let needles = pieces(name, secret, 8);
    assert!(!needles.is_empty(), "{name} is too short");
    needles
}

fn pieces(name: &str, secret: &[u8], step: usize) -> Vec<Needle> {
    let masked = |piece: &[u8]| piece.iter().map(|byte| byte ^ MASK).collect();
    // Zeros are everywhere, so none begins with one.
    let pieces = secret.windows(LENGTH).step_by(step).filter(|piece| piece[0] != 0);
    pieces.map(|piece| Needle { name: name.to_owned(), masked: masked(piece) }).collect()
}

/// Runs `test` in a process of its own, with a directory that `prepare` filled here. `name` is the test's own name.
pub fn in_a_process_of_its_own(
    name: &str,
    prepare: impl FnOnce(&TestDir) -> Vec<Needle>,
    test: impl FnOnce(&Path, &mut Memory),
) {
    if let Some(directory) = env::var_os(DIRECTORY) {
        let directory = PathBuf::from(directory);
        let mut memory = Memory::with_needles(&directory.join("needles"));
        memory.is_gone("", "nothing was read yet");
        return test(&directory, &mut memory);
    }
    let dir = TestDir::new().unwrap();
    let mut text = String::new();
    for needle in prepare(&dir) {
        let _ = write!(text, "{}\t", needle.name);
        for byte in &needle.masked {
            let _ = write!(text, "{byte:02x}");
        }
        text.push('\n');
    }
    dir.write("needles", text).unwrap();
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(DIRECTORY, dir.path())
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{shown}");
    assert!(shown.contains("1 passed"), "the test did not run: {shown}");
}

/// All that this process can write to: its heap, its variables, the stacks of other threads. And the stack of this one, where
/// the code is optimised: without that, each byte that is looked at passes through a place on the stack.
pub struct Memory {
    needles: Vec<Needle>,
    /// Both are made before anything is read, so that a search does not itself overwrite what it looks for.
    maps: Vec<u8>,
    chunk: Vec<u8>,
}

impl Memory {
    fn with_needles(path: &Path) -> Self {
        let mut needles = Vec::new();
        for line in fs::read_to_string(path).unwrap().lines() {
            let (name, hex) = line.split_once('\t').unwrap();
            let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
            let masked: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
            needles.push(Needle { name: name.to_owned(), masked });
        }
        assert!(!needles.is_empty());
        Self { needles, maps: Vec::with_capacity(1 << 20), chunk: vec![0; CHUNK] }
    }

    /// Fails if a piece of a secret whose name begins so is found, and says where.
    #[track_caller]
    pub fn is_gone(&mut self, name: &str, what: &str) {
        let found = self.find(name);
        assert!(found.is_empty(), "{what}: {name} is found: {found:#?}");
    }

    /// How many times a piece of a secret whose name begins so is found.
    pub fn count(&mut self, name: &str) -> usize {
        self.find(name).len()
    }

    /// The places of pieces: an address, and the part of memory that it is in.
    fn find(&mut self, name: &str) -> Vec<String> {
        let mut found = Vec::new();
        let mut begins = [false; 256];
        let named = |needle: &&Needle| needle.name.starts_with(name);
        self.needles
            .iter()
            .filter(named)
            .for_each(|needle| begins[usize::from(needle.masked[0] ^ MASK)] = true);
        self.maps.clear();
        File::open("/proc/self/maps").unwrap().read_to_end(&mut self.maps).unwrap();
        let memory = File::open("/proc/self/mem").unwrap();
        let here = std::ptr::from_ref(&begins) as u64;
        let mut searched = 0;
        for line in self.maps.split(|&byte| byte == b'\n') {
            let Some((mut at, end)) = writable(line) else { continue };
            if cfg!(debug_assertions) && (at..end).contains(&here) {
                continue;
            }
            while at < end {
                let length = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
                // Some pages are the kernel's, and not to be had.
                let Ok(read) = memory.read_at(&mut self.chunk[..length], at) else { break };
                occurrences(&self.chunk[..read], &self.needles, &begins, name, |place, name| {
                    let line = String::from_utf8_lossy(line);
                    found.push(format!("{name} at {:x} of {line}", at + place as u64));
                });
                searched += read;
                if read < LENGTH || at + read as u64 == end {
                    break;
                }
                // Once more from a bit before the end: a secret may lie across it.
                at += (read - (LENGTH - 1)) as u64;
            }
        }
        // The copies that were searched are no finds of the next search.
        self.chunk.fill(0);
        black_box(&self.chunk);
        assert!(searched > CHUNK, "only {searched} bytes could be read");
        found
    }
}

/// From a line of `/proc/self/maps`: the addresses, if this process can write there.
fn writable(line: &[u8]) -> Option<(u64, u64)> {
    let line = std::str::from_utf8(line).ok()?;
    let (range, rest) = line.split_once(' ')?;
    if !rest.starts_with("rw") || rest.contains("[v") {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?))
}

/// Hands over where which needle is in the chunk.
fn occurrences(
    chunk: &[u8],
    needles: &[Needle],
    begins: &[bool; 256],
    name: &str,
    mut take: impl FnMut(usize, &str),
) {
    // Most pages hold nothing but zeros, and without the optimiser each byte counts.
    let zeros = [0; 64];
    for (block, bytes) in chunk.chunks(zeros.len()).enumerate() {
        if *bytes == zeros[..bytes.len()] {
            continue;
        }
        for (at, &byte) in bytes.iter().enumerate().map(|(at, byte)| (block * zeros.len() + at, byte)) {
            if !begins[usize::from(byte)] {
                continue;
            }
            let is_here = |needle: &Needle| {
                let here = chunk[at..].iter().zip(&needle.masked).take_while(|(a, b)| **a == **b ^ MASK);
                here.count() == needle.masked.len()
            };
            let named = needles.iter().filter(|needle| needle.name.starts_with(name));
            named.filter(|needle| is_here(needle)).for_each(|needle| take(at, &needle.name));
        }
    }
}
