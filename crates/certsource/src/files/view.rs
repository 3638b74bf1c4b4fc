//! The bytes of all files of a source, as they stood together at one moment.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::Limits;
use super::plan::{Place, Plan, Role};
use crate::error::{Error, Reason};
use crate::fs::data::{self, InVolume};
use crate::fs::{Dir, File, Fs, Kind, Meta, Opened, Signature};

/// A file that was read.
pub(super) struct Taken {
    /// Wiped on drop: there may be a key in it.
    pub(super) bytes: Zeroizing<Vec<u8>>,
    pub(super) meta: Meta,
    /// Whether it was found through the `..data` link of a volume.
    pub(super) in_volume: bool,
}

/// What became of one file.
pub(super) enum Outcome {
    Taken(Taken),
    /// A sub-directory of a directory of anchors.
    PassedOver,
    Failed(Error),
}

/// What became of all of them.
pub(super) enum View {
    /// In the order of the plan.
    Whole(Vec<Outcome>),
    /// Something moved while they were read.
    Moved,
}

/// Reads every file of the plan once.
pub(super) fn take(fs: &dyn Fs, plan: &Plan, limits: &Limits) -> View {
    let volumes: Vec<_> = plan.places.iter().map(|place| data::locate(fs, &place.path)).collect();
    let in_volume = volumes.iter().map(Option::is_some).collect();
    let Some(Shared { link, target, dir, names }) = Shared::open(fs, volumes) else {
        return Round { plan, limits, in_volume, reach: ByPath(fs) }.run();
    };
    let view = Round { plan, limits, in_volume, reach: InDirectory { dir, names } }.run();
    // What is missing may be missing because this version of the volume is being removed.
    let is_missing =
        |outcome: &Outcome| matches!(outcome, Outcome::Failed(error) if error.reason() == Reason::NotFound);
    match &view {
        View::Whole(outcomes) if outcomes.iter().any(is_missing) && target_of(fs, &link) != target => {
            View::Moved
        }
        _ => view,
    }
}

fn target_of(fs: &dyn Fs, link: &Path) -> Option<OsString> {
    let mut target = OsString::new();
    fs.read_link(link, &mut target).ok().map(|()| target)
}

/// The one volume that all files are in, with the directory behind `..data` opened once.
struct Shared {
    link: PathBuf,
    /// Where the link pointed before it was followed.
    target: Option<OsString>,
    dir: Box<dyn Dir>,
    names: Vec<PathBuf>,
}

impl Shared {
    fn open(fs: &dyn Fs, volumes: Vec<Option<InVolume>>) -> Option<Self> {
        let volumes = volumes.into_iter().collect::<Option<Vec<_>>>()?;
        let root = &volumes.first()?.root;
        if volumes.iter().any(|volume| volume.root != *root) {
            return None;
        }
        let link = root.join(data::LINK);
        let target = target_of(fs, &link);
        let dir = fs.open_dir(&link).ok()?;
        Some(Self { link, target, dir, names: volumes.into_iter().map(|volume| volume.rest).collect() })
    }
}

/// How the places of a plan are reached, by their number.
trait Reach {
    fn open(&self, number: usize, place: &Place) -> io::Result<Opened>;
    fn state(&self, number: usize, place: &Place) -> State;
}

/// The signature of a regular file; `None` for anything else.
type State = Result<Option<Signature>, io::ErrorKind>;

struct ByPath<'a>(&'a dyn Fs);

impl Reach for ByPath<'_> {
    fn open(&self, _: usize, place: &Place) -> io::Result<Opened> {
        self.0.open(&place.path)
    }

    fn state(&self, _: usize, place: &Place) -> State {
        let meta = self.0.metadata(&place.path).map_err(|error| error.kind())?;
        Ok((meta.kind == Kind::File).then(|| meta.signature()))
    }
}

struct InDirectory {
    dir: Box<dyn Dir>,
    names: Vec<PathBuf>,
}

impl Reach for InDirectory {
    fn open(&self, number: usize, _: &Place) -> io::Result<Opened> {
        self.dir.open(&self.names[number])
    }

    fn state(&self, number: usize, _: &Place) -> State {
        match self.dir.open(&self.names[number]) {
            Ok(Opened::File(file)) => Ok(Some(file.metadata().map_err(|error| error.kind())?.signature())),
            Ok(Opened::NotRegular(_)) => Ok(None),
            Err(error) => Err(error.kind()),
        }
    }
}

struct Round<'a, R> {
    plan: &'a Plan,
    limits: &'a Limits,
    in_volume: Vec<bool>,
    reach: R,
}

/// Why a file gave no bytes.
enum Stop {
    Moved,
    PassedOver,
    Failed(Error),
}

impl<R: Reach> Round<'_, R> {
    /// Every signature before, every file, every signature after. A write that falls between is a difference; one
    /// that leaves equal signatures (a coarse clock) is caught by whoever reads again later and compares content.
    fn run(&self) -> View {
        let before = self.states();
        let mut total = 0;
        let mut outcomes = Vec::with_capacity(self.plan.places.len());
        for (number, place) in self.plan.places.iter().enumerate() {
            let outcome = match self.file(number, place, before[number], &mut total) {
                Ok(taken) => Outcome::Taken(taken),
                Err(Stop::PassedOver) => Outcome::PassedOver,
                Err(Stop::Failed(error)) => Outcome::Failed(error),
                Err(Stop::Moved) => return View::Moved,
            };
            outcomes.push(outcome);
        }
        if self.states() == before { View::Whole(outcomes) } else { View::Moved }
    }

    fn states(&self) -> Vec<State> {
        self.plan.places.iter().enumerate().map(|(number, place)| self.reach.state(number, place)).collect()
    }

    fn file(&self, number: usize, place: &Place, before: State, total: &mut u64) -> Result<Taken, Stop> {
        let failed = |error| Stop::Failed(Error::io(reading(place.role), &place.shown, error));
        let mut file = match self.reach.open(number, place) {
            Ok(Opened::File(file)) => file,
            Ok(Opened::NotRegular(_)) if matches!(before, Ok(Some(_))) => return Err(Stop::Moved),
            Ok(Opened::NotRegular(Kind::Directory)) if place.is_listed => return Err(Stop::PassedOver),
            Ok(Opened::NotRegular(kind)) => return Err(Stop::Failed(not_regular(kind, place))),
            Err(error) if error.kind() == io::ErrorKind::NotFound && before.is_ok() => {
                return Err(Stop::Moved);
            }
            Err(error) => return Err(failed(error)),
        };
        let meta = file.metadata().map_err(failed)?;
        // What was opened must be what was seen: a link can be turned away and back between the two looks.
        if before != Ok(Some(meta.signature())) {
            return Err(Stop::Moved);
        }
        let bytes = self.bytes(&mut *file, &meta, place, total)?;
        Ok(Taken { bytes, meta, in_volume: self.in_volume[number] })
    }

    /// Reads to the end, whatever the size says: in `/proc` it is 0, and a file may grow.
    fn bytes(
        &self,
        file: &mut dyn File,
        meta: &Meta,
        place: &Place,
        total: &mut u64,
    ) -> Result<Zeroizing<Vec<u8>>, Stop> {
        let left = self.limits.total_bytes.saturating_sub(*total);
        let cap = usize::try_from(self.limits.file_bytes.min(left)).unwrap_or(usize::MAX - 1);
        // One more than it should need, so that the end is seen without growing.
        let hint = usize::try_from(meta.size).unwrap_or(usize::MAX).min(cap).saturating_add(1);
        let mut bytes = Zeroizing::new(vec![0; hint]);
        let mut filled = 0;
        loop {
            if filled == bytes.len() {
                bytes = grown(&bytes, cap);
            }
            let read = file.read(&mut bytes[filled..]);
            let read =
                read.map_err(|error| Stop::Failed(Error::io(reading(place.role), &place.shown, error)))?;
            if read == 0 {
                break;
            }
            filled += read;
            if filled > cap {
                return Err(Stop::Failed(too_large(self.limits, left, place)));
            }
        }
        *total += filled as u64;
        bytes.truncate(filled);
        Ok(bytes)
    }
}

fn too_large(limits: &Limits, left: u64, place: &Place) -> Error {
    let message = if left < limits.file_bytes {
        let limit = limits.total_bytes;
        format!(
            "with this file, the source holds more than its limit of {limit} bytes; if this is meant, raise \
             `Limits::total_bytes`"
        )
    } else {
        format!(
            "this file holds more than the limit of {} bytes; if this is meant, raise `Limits::file_bytes`",
            limits.file_bytes
        )
    };
    Error::new(Reason::TooLarge, message).at(&place.shown)
}

/// A larger buffer with the same content. Not `reserve`: that would leave the old one behind unwiped.
fn grown(bytes: &[u8], cap: usize) -> Zeroizing<Vec<u8>> {
    let size = bytes.len().saturating_mul(2).max(4096).min(cap.saturating_add(1)).max(bytes.len() + 1);
    let mut larger = Zeroizing::new(Vec::with_capacity(size));
    larger.extend_from_slice(bytes);
    larger.resize(size, 0);
    larger
}

fn reading(role: Role) -> &'static str {
    match role {
        Role::Trust => "read the trust anchors",
        Role::Chain => "read the certificate",
        Role::Key => "read the private key",
        Role::Combined => "read the certificate and its private key",
        Role::Crl => "read the revocation list",
    }
}

fn not_regular(kind: Kind, place: &Place) -> Error {
    let message = match kind {
        Kind::Directory => "this is a directory; name the file in it".to_owned(),
        Kind::Other => "this is not a regular file; name a regular file".to_owned(),
        kind => format!("this is {kind}, not a regular file; name a regular file"),
    };
    Error::new(Reason::NotRegularFile, message).at(&place.shown)
}
