//! What writers, and the machine, do in a random history: acts made into system calls.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use certsource::fs::Stamp;
use certsource::pem::{self, Content};
use certsource_sim::case::{Case, create, overwrite};
use certsource_sim::disk::{BEGIN, Blob, Call, Fault, errno};
use certsource_sim::engine::Strategy;
use certsource_sim::subject::Spec;
use certsource_sim::watches::Fate;
use certsource_sim::writers::{self, join};

use super::kit;

/// How many writers there are at the most.
pub(crate) const WRITERS: usize = 3;
/// How long an access takes that does not come back: longer than everything else in a history.
const NEVER: Duration = Duration::from_secs(3600);

/// When a call is made.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Delay {
    /// After so many accesses of the reader; or when it rests.
    Accesses(u8),
    /// After so much time.
    Millis(u32),
}

impl Delay {
    /// When it is over if the reader rests: what counts accesses then takes half a second.
    pub(crate) fn over_at_rest(self, since: Duration) -> Duration {
        since
            + match self {
                Self::Accesses(_) => Duration::from_millis(500),
                Self::Millis(millis) => Duration::from_millis(millis.into()),
            }
    }

    /// Whether it is over while the reader works, at one more access.
    pub(crate) fn is_over(&mut self, since: Duration, now: Duration) -> bool {
        match self {
            Self::Accesses(0) => true,
            Self::Accesses(left) => {
                *left -= 1;
                false
            }
            Self::Millis(_) => self.over_at_rest(since) <= now,
        }
    }
}

/// What a writer, or the machine, does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Doing {
    InPlace(u8),
    Uncut(u8),
    Rename,
    UnlinkCreate,
    Mapped(u8),
    CopyWithOldTime,
    Touch,
    Chmod,
    Remove,
    ReplaceDirectory,
    SetClock(i64),
    Fault(u8),
    Mend,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    Trust,
    Pair,
    Full,
    Volume,
}

#[derive(Clone, Debug)]
pub(crate) struct Act {
    pub(crate) doing: Doing,
    /// Who does it. Acts of one writer come one after the other, those of several at once.
    pub(crate) writer: u8,
    pub(crate) version: usize,
    /// In which order files are written.
    pub(crate) order: u8,
    /// Before each of its calls, over and over.
    pub(crate) delays: Vec<Delay>,
}

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) strategy: Strategy,
    pub(crate) layout: Layout,
    /// Milliseconds; 0 is a nanosecond.
    pub(crate) tick: u64,
    pub(crate) fate: Fate,
    pub(crate) most_watches: Option<usize>,
    pub(crate) read_most: usize,
    pub(crate) acts: Vec<Act>,
    pub(crate) reader: Reader,
}

/// What is asked of the reader, beyond following.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reader {
    /// For how long withdrawn anchors go on being trusted, in milliseconds.
    pub(crate) overlap: u32,
    /// Calls to it, one after the other.
    pub(crate) asks: Vec<Ask>,
    /// From when to when its gate can use nothing, in milliseconds.
    pub(crate) unusable: Option<(u32, u32)>,
    /// Its gate refuses the identity of the last version.
    pub(crate) refuses: bool,
    /// How long its gate takes, in milliseconds.
    pub(crate) judges_for: u32,
    /// How long what can not be confirmed is served, in seconds.
    pub(crate) max_stale: Option<u32>,
}

/// A call to the reader.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    /// After the one before. In place of accesses of the reader, its steps count.
    pub(crate) delay: Delay,
    /// Ends every overlap, or asks for a read only.
    pub(crate) withdraws: bool,
}

const NAMES: [&str; 3] = ["ca.crt", "tls.crt", "tls.key"];

/// The files, before anybody writes.
pub(crate) fn start(layout: Layout) -> Case {
    let path = |name: &str| PathBuf::from(format!("/etc/tls/{name}"));
    let [ca, cert, key] = NAMES.map(path);
    let spec = match layout {
        Layout::Trust => Spec::Trust(ca),
        Layout::Pair => Spec::Pair(cert, key),
        Layout::Full => Spec::Full(ca, cert, key),
        Layout::Volume => return writers::kubelet(kit(), 0, false),
    };
    let paths = spec.paths();
    let mut case = Case::new("random", spec);
    for path in &paths {
        case = case.with_file(path.to_str().unwrap(), &content(path, 0));
    }
    case
}

/// The certificate that a gate refuses where it refuses one.
pub(crate) fn refused() -> Vec<u8> {
    let certificate = pem::sections(kit().pairs[2].0.bytes()).next().unwrap().unwrap().content;
    let Content::Certificate(der) = certificate else { panic!("a certificate") };
    der.to_vec()
}

/// What a version holds at a path.
fn content(path: &std::path::Path, version: usize) -> Blob {
    let kit = kit();
    let name = path.file_name().unwrap().to_str().unwrap();
    match name {
        "ca.crt" if version < 3 => kit.bundles[version].clone(),
        "ca.crt" if version == 3 => join(&kit.bundles[..2]),
        "ca.crt" => join(&kit.bundles[1..]),
        "tls.crt" => kit.pairs[version % 3].0.clone(),
        _ => kit.pairs[version % 3].1.clone(),
    }
}

fn pieces(blob: &Blob, count: u8) -> Vec<Blob> {
    let bytes = blob.bytes();
    let count = usize::from(count);
    // Where there are two certificates, a piece ends between them.
    let size = bytes.len().div_ceil(count).max(1);
    bytes.chunks(size).map(Blob::new).collect()
}

/// One act as calls, and what it means to leave behind.
pub(crate) struct Script {
    pub(crate) calls: Vec<(Delay, Call)>,
    pub(crate) meant: Meant,
}

/// What each writer does, act by act.
pub(crate) fn scripts(plan: &Plan, paths: &[PathBuf]) -> [Vec<Script>; WRITERS] {
    let mut writers: [Vec<Script>; WRITERS] = Default::default();
    // Each kubelet removes the version that it made before; the first one also that of the beginning.
    let mut made = [Some(0), None, None];
    for (number, act) in plan.acts.iter().enumerate() {
        let writer = usize::from(act.writer) % WRITERS;
        let (calls, meant) = if plan.layout == Layout::Volume {
            volume_calls(act, number, &mut made[writer])
        } else {
            plain_calls(act, number as u32 * 10, paths)
        };
        writers[writer].push(Script { calls: delayed(act, calls), meant });
    }
    writers
}

/// What happens when all writers are done: nothing is broken any more.
pub(crate) fn ending() -> Script {
    let act = Act { doing: Doing::Mend, writer: 0, version: 0, order: 0, delays: vec![Delay::Millis(10)] };
    let calls = machine_calls(&act, NAMES[0].as_ref());
    Script { calls: delayed(&act, calls), meant: Meant::new() }
}

fn delayed(act: &Act, calls: Vec<Call>) -> Vec<(Delay, Call)> {
    act.delays.iter().copied().cycle().zip(calls).collect()
}

/// By path: the content, or that there is no file.
pub(crate) type Meant = BTreeMap<PathBuf, Option<Blob>>;

fn plain_calls(act: &Act, fd: u32, paths: &[PathBuf]) -> (Vec<Call>, Meant) {
    let mut paths = paths.to_vec();
    let by = usize::from(act.order) % paths.len();
    paths.rotate_left(by);
    // One more bit of the order: all files, or the first only.
    if act.order >= 192 {
        paths.truncate(1);
    }
    let mut calls = Vec::new();
    let mut meant = Meant::new();
    for (fd, path) in (fd..).zip(&paths) {
        let text = path.to_str().unwrap();
        let new = content(path, act.version);
        let was_len = calls.len();
        match act.doing {
            Doing::InPlace(count) => calls.extend(overwrite(fd, text, &pieces(&new, count))),
            Doing::Uncut(count) => {
                let mut steps = overwrite(fd, text, &pieces(&new, count));
                if let Call::Open { truncate, .. } = &mut steps[0] {
                    *truncate = false;
                }
                let cut = Call::Truncate { path: path.clone(), size: new.bytes().len() };
                let close = steps.pop().unwrap();
                calls.extend(steps.into_iter().chain([cut, close]));
            }
            Doing::Rename => {
                // A name of its own: who renames a file that another still writes is not to be helped.
                let temporary = format!("{text}.tmp{}", act.writer);
                calls.extend(create(fd, &temporary, &pieces(&new, 2)));
                calls.push(Call::Rename(temporary.into(), path.clone()));
            }
            Doing::UnlinkCreate => {
                calls.push(Call::Unlink(path.clone()));
                calls.extend(create(fd, text, &pieces(&new, 2)));
            }
            Doing::Mapped(count) => {
                let mut steps = overwrite(fd, text, &[]);
                if let Call::Open { truncate, .. } = &mut steps[0] {
                    *truncate = false;
                }
                let close = steps.pop().unwrap();
                let mut at = 0;
                for bytes in pieces(&new, count) {
                    let next = at + bytes.bytes().len();
                    steps.push(Call::Store { fd, at, bytes });
                    at = next;
                }
                calls.extend(steps.into_iter().chain([close]));
            }
            Doing::CopyWithOldTime => {
                calls.extend(overwrite(fd, text, &pieces(&new, 2)));
                let old = Stamp { secs: BEGIN as i64 - 90_000, nanos: 0 };
                calls.push(Call::SetModified(path.clone(), Some(old)));
            }
            Doing::Touch => calls.push(Call::SetModified(path.clone(), None)),
            Doing::Chmod => calls.push(Call::Chmod(path.clone(), 0o640)),
            Doing::Remove => calls.push(Call::Unlink(path.clone())),
            Doing::ReplaceDirectory | Doing::SetClock(_) | Doing::Fault(_) | Doing::Mend => {}
        }
        if calls.len() > was_len && !matches!(act.doing, Doing::Touch | Doing::Chmod) {
            meant.insert(path.clone(), (!matches!(act.doing, Doing::Remove)).then_some(new));
        }
    }
    if matches!(act.doing, Doing::ReplaceDirectory) {
        let new = format!("/etc/new{fd}");
        calls.push(Call::Mkdir(new.clone().into()));
        for (fd, path) in (fd..).zip(&paths) {
            let name = path.file_name().unwrap().to_str().unwrap();
            calls.extend(create(fd, &format!("{new}/{name}"), &[content(path, act.version)]));
            meant.insert(path.clone(), Some(content(path, act.version)));
        }
        calls.push(Call::Rename("/etc/tls".into(), format!("/etc/old{fd}").into()));
        calls.push(Call::Rename(new.into(), "/etc/tls".into()));
    }
    calls.extend(machine_calls(act, &paths[0]));
    (calls, meant)
}

fn machine_calls(act: &Act, path: &std::path::Path) -> Vec<Call> {
    let name = path.file_name().map(std::ffi::OsStr::to_owned);
    match act.doing {
        Doing::SetClock(by) => vec![Call::SetClock(by)],
        Doing::Fault(kind) => {
            let fault = match kind {
                0 => Fault::Open(errno::EACCES),
                1 => Fault::Read(errno::EIO),
                2 => Fault::Lookup(errno::EACCES),
                3 => Fault::Lookup(errno::ENOENT),
                4 => return vec![Call::Break(None, Fault::Open(errno::EMFILE))],
                5 => Fault::Hang(Duration::from_secs(3)),
                6 => Fault::HangLook(Duration::from_secs(3)),
                7 => Fault::HangRead(Duration::from_secs(3)),
                // As good as never.
                8 => Fault::HangLook(NEVER),
                _ => Fault::HangRead(NEVER),
            };
            vec![Call::Break(name, fault)]
        }
        Doing::Mend => {
            let names = NAMES.map(|name| Call::Mend(Some(name.into())));
            names.into_iter().chain([Call::Mend(None)]).collect()
        }
        _ => Vec::new(),
    }
}

/// In a volume every writer is the kubelet, but for faults and clocks; an odd order keeps the old directory.
fn volume_calls(act: &Act, number: usize, made: &mut Option<usize>) -> (Vec<Call>, Meant) {
    let mut meant = Meant::new();
    if matches!(act.doing, Doing::SetClock(_) | Doing::Fault(_) | Doing::Mend) {
        return (machine_calls(act, "/etc/tls/ca.crt".as_ref()), meant);
    }
    let new = number + 1;
    let dir = format!("/etc/tls/..v{new}");
    let mut calls = vec![Call::Mkdir(dir.clone().into())];
    for (fd, name) in (number as u32 * 10..).zip(NAMES) {
        let path = PathBuf::from(format!("/etc/tls/{name}"));
        calls.extend(create(fd, &format!("{dir}/{name}"), &[content(&path, act.version)]));
        meant.insert(path.clone(), Some(content(&path, act.version)));
    }
    calls.push(Call::Symlink(format!("..v{new}").into(), "/etc/tls/..data_tmp".into()));
    calls.push(Call::Rename("/etc/tls/..data_tmp".into(), "/etc/tls/..data".into()));
    if let (Some(before), true) = (*made, act.order % 2 == 0) {
        let old = format!("/etc/tls/..v{before}");
        calls.extend(NAMES.map(|name| Call::Unlink(format!("{old}/{name}").into())));
        calls.push(Call::Rmdir(old.into()));
    }
    *made = Some(new);
    (calls, meant)
}
