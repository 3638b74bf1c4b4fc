//! The detector that is told by the operating system.
//!
//! What is not here: the watches themselves. They come from the engine ([`Alarm::watches`]), so that many sources
//! share one watcher.

mod proof;
mod record;
mod way;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::proof::is_left_by_rename;
use self::record::{Happened, Lost, Shared};
use self::way::Way;
use super::Mtime;
use crate::clock::Now;
use crate::error::Error;
use crate::fs::{Fs, Seen, Volume};
use crate::origin::Origin;
use crate::source::{Alarm, Armed, Arrival, Detector, Look, Sink, Watch, WatchError, Watches};

/// How often files are looked at although no event came.
const SAFETY_POLL: Duration = Duration::from_secs(60);
/// How often the way is walked again when it changes while the watches are set.
const ROUNDS: usize = 8;

/// Is told by the operating system (inotify on Linux), and looks by itself every 60 s.
///
/// # Behaviour
/// - Every directory is watched in which a name on the way to a file is looked up: that of the file, of each link on
///   the way, and those above them. So it also sees a link re-pointed far above, a directory replaced as a whole, and
///   a file that comes to be. Files themselves are not watched: such a watch dies with the file's first replacement.
/// - Other names in those directories are ignored.
/// - Reading a file causes no event.
/// - Watches are set again after every event that may have ended them, and there is a look afterwards.
/// - A rename is taken for the whole of a change only if the time stamps of the file and of its directory say that nobody
///   wrote since. Where they can not tell, as on a file system that keeps whole seconds, the content must stand still first.
/// - Every look also compares signatures, as [`Mtime`] does, so a lost event costs 60 s at most.
/// - Events may come long after what they tell of. Those that only tell of names (a rename, a removal) say nothing new
///   when a look has seen their effect already; a look that sees the effect first says [`Arrival::Unannounced`].
///
/// # Where it falls back
/// If a watch cannot be had, or something on the way is on a network, FUSE or unknown file system (which may give no
/// events, and is not watched), it says [`Armed::Degraded`]: the engine then polls at its interval. The watches that
/// could be had still wake it. Once a minute, and after every change, it tries again.
#[derive(Default)]
pub struct Notify {
    poll: Mtime,
    shared: Arc<Shared>,
    standing: Vec<Standing>,
    /// What was watched and what came of it; `None` before the first time.
    armed: Option<(Vec<PathBuf>, Armed)>,
    /// A look found a change: what the watches stand on may be another now.
    must_rearm: bool,
    /// A look found a change before the event that tells of it came.
    is_unexplained: bool,
    last_armed_look: Option<Instant>,
}

/// A watch, and which directory it was set on: the path may come to mean another one.
struct Standing {
    directory: PathBuf,
    identity: Identity,
    _watch: Watch,
}

type Identity = Option<(u64, u64)>;

impl Notify {
    /// A detector that has seen nothing yet. Until it is armed with watches it polls.
    pub fn new() -> Self {
        Self::default()
    }

    fn is_watching(&self) -> bool {
        matches!(self.armed, Some((_, Armed::Watching)))
    }

    /// Brings the watches in step with the way, again until it stands still.
    ///
    /// Gives whether watches were added, and what could not be done.
    fn rearm(&mut self, fs: &dyn Fs, paths: &[PathBuf], watches: &dyn Watches) -> (bool, Option<String>) {
        let here = match std::env::current_dir() {
            Ok(here) => here,
            Err(_) if paths.iter().all(|path| path.is_absolute()) => PathBuf::new(),
            Err(error) => return (false, Some(format!("the current directory cannot be told: {error}"))),
        };
        let mut was_added = false;
        for _ in 0..ROUNDS {
            let lost = self.shared.take_lost();
            let way = way::to(fs, paths, &here);
            // Before the watches are set, so that their first event counts.
            self.shared.set_way(&way);
            let (is_steady, problem) = self.set(fs, &way, &lost, watches, &mut was_added);
            if is_steady && way::to(fs, paths, &here) == way {
                let mut all = way.keys().chain(paths);
                return (was_added, problem.or_else(|| all.find_map(|path| unreliable(fs, path))));
            }
        }
        // Not for long: the next look tries again.
        self.must_rearm = true;
        (
            was_added,
            Some("links and directories on the way change faster than they can be watched".to_owned()),
        )
    }

    /// How the change that events tell of arrived. Those of a rename explain it only if nobody wrote since.
    fn arrival(&self, fs: &dyn Fs, happened: &Happened, paths: &[PathBuf]) -> Arrival {
        let arrival = happened.arrival(paths.len() == 1);
        if arrival != Arrival::Renamed {
            return arrival;
        }
        // After the files were looked at: what is renamed in between must not count as written.
        let moved_into = happened.moved_into().iter().filter_map(|directory| fs.metadata(directory).ok());
        let stamps: Vec<_> = moved_into.map(|meta| meta.modified).collect();
        let is_left = |seen: &Seen| stamps.iter().any(|stamp| is_left_by_rename(*stamp, seen));
        if self.poll.moved().all(is_left) { Arrival::Renamed } else { Arrival::Unknown }
    }

    /// Sets the watches of one way. Gives whether every directory stayed the same meanwhile.
    fn set(
        &mut self,
        fs: &dyn Fs,
        way: &Way,
        lost: &Lost,
        watches: &dyn Watches,
        was_added: &mut bool,
    ) -> (bool, Option<String>) {
        self.standing
            .retain(|standing| way.contains_key(&standing.directory) && !lost.is(&standing.directory));
        let mut is_steady = true;
        let mut problem = None;
        for directory in way.keys() {
            let identity = identity(fs, directory);
            let standing = self.standing.iter().position(|standing| standing.directory == *directory);
            if let Some(at) = standing {
                if self.standing[at].identity == identity {
                    continue;
                }
                self.standing.swap_remove(at);
            }
            if let Some(why) = unwatchable(fs, directory) {
                problem.get_or_insert(why);
                continue;
            }
            match watches.watch(directory, sink(&self.shared, directory)) {
                Ok(watch) => {
                    *was_added = true;
                    is_steady &= self::identity(fs, directory) == identity;
                    self.standing.push(Standing { directory: directory.clone(), identity, _watch: watch });
                }
                // It was there when the way was walked.
                Err(WatchError::NotFound) => is_steady = false,
                Err(error) => {
                    problem.get_or_insert_with(|| problem_text(directory, &error));
                }
            }
        }
        (is_steady, problem)
    }
}

impl Detector for Notify {
    fn look(&mut self, fs: &dyn Fs, paths: &[PathBuf], now: Now) -> Result<Look, Error> {
        // Before the files are looked at: what happens from here on is left for the next look.
        let happened = self.shared.take_happened();
        let polled = if happened.is_some() {
            self.poll.look_at_all(fs, paths, now)?
        } else {
            self.poll.look(fs, paths, now)?
        };
        let look = match (happened, polled) {
            (_, Look::Changed(Arrival::Swapped)) => polled,
            (Some(happened), Look::Same | Look::SameUntil(_) | Look::Changed(Arrival::Recheck))
                if happened.is_only_names() && !self.is_unexplained =>
            {
                // An earlier look has seen it already.
                polled
            }
            (Some(happened), _) => Look::Changed(self.arrival(fs, &happened, paths)),
            (None, Look::Changed(_)) if self.is_watching() && self.poll.has_moved() => {
                Look::Changed(Arrival::Unannounced)
            }
            (None, polled) => polled,
        };
        if let Look::Changed(arrival) = look {
            self.is_unexplained = arrival == Arrival::Unannounced;
            if !self.is_unexplained {
                self.poll.forget_moved();
            }
        }
        let safety = now.mono + SAFETY_POLL;
        let last = *self.last_armed_look.get_or_insert(now.mono);
        if matches!(look, Look::Changed(_)) || now.mono.saturating_duration_since(last) >= SAFETY_POLL {
            self.must_rearm = true;
            self.last_armed_look = Some(now.mono);
        }
        Ok(match look {
            Look::Same if self.is_watching() => Look::SameUntil(safety),
            Look::SameUntil(at) if self.is_watching() => Look::SameUntil(at.min(safety)),
            look => look,
        })
    }

    fn arm(&mut self, fs: &dyn Fs, paths: &[PathBuf], alarm: &Alarm) -> Armed {
        let Some(watches) = alarm.watches() else {
            return Armed::Degraded("no file watches here: the engine was started without them".to_owned());
        };
        if let Some((watched, armed)) = &self.armed {
            if watched == paths && !self.must_rearm && !self.shared.is_rerouted() {
                return armed.clone();
            }
        }
        self.must_rearm = false;
        self.shared.set_wake(alarm.wake());
        let (was_added, problem) = self.rearm(fs, paths, &**watches);
        if was_added && self.armed.is_some() {
            // Something may have changed before the new watches stood.
            alarm.wake().wake();
        }
        let armed = problem.map_or(Armed::Watching, Armed::Degraded);
        self.armed = Some((paths.to_vec(), armed.clone()));
        armed
    }
}

impl fmt::Debug for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let directories: Vec<_> = self.standing.iter().map(|standing| &standing.directory).collect();
        f.debug_struct("Notify")
            .field("watched", &directories)
            .field("armed", &self.armed)
            .finish_non_exhaustive()
    }
}

fn sink(shared: &Arc<Shared>, directory: &Path) -> Sink {
    let (shared, directory) = (Arc::clone(shared), directory.to_path_buf());
    Arc::new(move |event| shared.happened(&directory, event))
}

/// Which directory a path means now. Where the system tells no inode, every directory counts as the same.
fn identity(fs: &dyn Fs, directory: &Path) -> Identity {
    fs.metadata(directory).ok().map(|meta| (meta.device, meta.inode))
}

fn problem_text(directory: &Path, error: &WatchError) -> String {
    format!("{}: {error}", Origin::file(directory))
}

/// Whether volumes are told apart here. Where they are not, all count as remote, and are watched for what it is worth.
const TELLS_VOLUMES: bool = cfg!(any(target_os = "linux", target_os = "android"));

/// Why a directory is not watched. On a network file system that hangs, setting a watch would hang the watcher for
/// every source; events of it would tell only half of the changes anyway.
fn unwatchable(fs: &dyn Fs, directory: &Path) -> Option<String> {
    if TELLS_VOLUMES { unreliable(fs, directory) } else { None }
}

/// Why no event of what is at this path can be relied on. What is not there is no reason.
fn unreliable(fs: &dyn Fs, path: &Path) -> Option<String> {
    match fs.volume(path) {
        Ok(volume) if volume != Volume::Local => {
            let path = Origin::file(path);
            Some(format!("{path}: on a network, FUSE or unknown file system, which may give no events"))
        }
        _ => None,
    }
}
