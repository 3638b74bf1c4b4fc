//! Derived values: built from a generation, published with it, replaced with it.

use std::any::Any;
use std::fmt;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::{ArcSwap, ArcSwapOption};
use certsource::{Error, Reason};

use crate::closed::{Closed, Unbuilt};
use crate::gate::panicked;
use crate::generation::Generation;
use crate::reloader::Reloader;

/// A value and the generation it was built from: they are read and replaced as one.
#[derive(Debug)]
pub struct Version<T> {
    generation: Arc<Generation>,
    value: T,
}

impl<T> Version<T> {
    /// The generation that the value was built from.
    pub fn generation(&self) -> &Arc<Generation> {
        &self.generation
    }

    /// The value.
    pub fn value(&self) -> &T {
        &self.value
    }
}

impl<T> Deref for Version<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// Something built from a generation and replaced with it: a TLS config, a client, a pool.
///
/// It is built before its generation is published. When that fails, the last good generation stays; that is told as
/// `rejected`, and tried again by itself, soon and then less often. Cheap to clone; it keeps the source followed.
///
/// Not so when the new generation is a pure withdrawal: nothing holds that back. It is published, and the values that could
/// not be built from it are closed: [`Derived::get`] says so, and gives none. They too are tried again by themselves. That is
/// told as `degraded`, and its end as `recovered`.
///
/// Whoever has seen a generation, by [`Reloader::current`] or by any signal, finds a value of that one or of a newer
/// one here, or none.
pub struct Derived<T> {
    slot: Arc<Slot<T>>,
    reloader: Reloader,
}

impl<T: Send + Sync + 'static> Derived<T> {
    pub(crate) fn new(slot: Arc<Slot<T>>, reloader: Reloader) -> Self {
        Self { slot, reloader }
    }

    /// The newest value that there is, also if it must not be used any more: then its generation is
    /// [retired](Generation::retired). Never blocks; some nanoseconds.
    ///
    /// Who can fail should use [`Derived::get`].
    pub fn load(&self) -> Arc<Version<T>> {
        self.slot.current.load_full()
    }

    /// The value of the generation that is served now. Never blocks; some nanoseconds.
    ///
    /// # Errors
    /// [`Closed`] while the value must not be used. Without
    /// [`Policy::max_stale`](certsource::machine::Policy::max_stale), and with a closure that never fails, that is never.
    pub fn get(&self) -> Result<Arc<Version<T>>, Closed> {
        loop {
            let version = self.load();
            let number = version.generation.number();
            // Before it is current, a generation has its values, or it is said here that it has none.
            if self.slot.has_unbuilt_after(number) {
                match self.slot.unbuilt_after(number) {
                    Some(unbuilt) => return Err(Closed::Unbuilt(unbuilt)),
                    // It was built meanwhile: that value is current.
                    None => continue,
                }
            }
            if !version.generation.retired().is_retired() {
                return Ok(version);
            }
            if self.load().generation.number() != number {
                continue;
            }
            // It is said before the signal comes, and taken back after newer values are there.
            if let Some(stale) = self.reloader.stale() {
                return Err(Closed::Stale(stale));
            }
        }
    }

    /// As [`Derived::get`]; but while the value is closed, one that is built anew from the same generation, with nothing in it
    /// from before: no pool, no session, no connection. For values that ask for themselves whether they are closed, as a
    /// channel above a connector of `certsource-hyper` does: used, it fails as it should.
    ///
    /// # Errors
    /// When it can not be built.
    pub fn get_or_anew(&self) -> Result<Arc<Version<T>>, Error> {
        self.get().or_else(|_| self.slot.anew())
    }

    /// The reloader that it follows.
    pub fn reloader(&self) -> &Reloader {
        &self.reloader
    }
}

impl<T> Clone for Derived<T> {
    fn clone(&self) -> Self {
        Self { slot: Arc::clone(&self.slot), reloader: self.reloader.clone() }
    }
}

impl<T> fmt::Debug for Derived<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Derived").field("reloader", &self.reloader).finish_non_exhaustive()
    }
}

pub(crate) type Build<T> =
    Box<dyn Fn(&Arc<Generation>) -> Result<T, Box<dyn std::error::Error + Send + Sync>> + Send + Sync>;

/// The published value and how to build the next one.
pub(crate) struct Slot<T> {
    build: Build<T>,
    current: ArcSwap<Version<T>>,
    /// A newer generation is served, and there is no value of it.
    unbuilt: ArcSwapOption<Unbuilt>,
    /// The number of the last such generation, or 0. It is what is looked at for each value that is asked for. It never goes
    /// back: who has seen that generation must not take an older value from then on, whoever builds the missing one.
    unbuilt_number: AtomicU64,
    /// A thread builds what is missing, or hangs in that.
    is_mended: AtomicBool,
    /// A second value of the generation that `current` is of, while that one must not be used.
    anew: ArcSwapOption<Version<T>>,
}

impl<T: Send + Sync + 'static> Slot<T> {
    pub(crate) fn start(build: Build<T>, generation: &Arc<Generation>) -> Result<Self, Error> {
        let first = version(&build, generation)?;
        let (unbuilt, anew) = (ArcSwapOption::empty(), ArcSwapOption::empty());
        Ok(Self {
            build,
            current: ArcSwap::from(first),
            unbuilt,
            unbuilt_number: AtomicU64::new(0),
            is_mended: AtomicBool::new(false),
            anew,
        })
    }

    /// For a slot that nobody has seen yet: a newer generation was published meanwhile.
    pub(crate) fn start_again(&self, generation: &Arc<Generation>) -> Result<(), Error> {
        self.current.store(version(&self.build, generation)?);
        Ok(())
    }

    fn has_unbuilt_after(&self, number: u64) -> bool {
        self.unbuilt_number.load(Ordering::Acquire) > number
    }

    fn unbuilt_after(&self, number: u64) -> Option<Unbuilt> {
        let unbuilt = self.unbuilt.load();
        unbuilt.as_deref().filter(|unbuilt| unbuilt.generation > number).cloned()
    }

    fn anew(&self) -> Result<Arc<Version<T>>, Error> {
        let current = self.current.load_full();
        let number = current.generation.number();
        if let Some(anew) = self.anew.load_full().filter(|anew| anew.generation.number() == number) {
            return Ok(anew);
        }
        // Under no lock; so two may do it at once, and one of both is used.
        let built = version(&self.build, &current.generation)?;
        let before = self.anew.compare_and_swap(&None::<Arc<Version<T>>>, Some(Arc::clone(&built)));
        Ok(before.clone().filter(|before| before.generation.number() == number).unwrap_or(built))
    }
}

/// A value that was built, or replaced, and whose type is forgotten.
pub(crate) type Built = Box<dyn Any + Send>;

/// A slot whose type is forgotten.
pub(crate) trait AnySlot: Send + Sync {
    fn build(&self, generation: &Arc<Generation>) -> Result<Built, Error>;
    /// Replaces the value, and returns the one before: to be dropped where no lock is held.
    fn publish(&self, built: Built) -> Built;
    /// There is no value of this generation.
    fn miss(&self, unbuilt: Unbuilt);
    fn unbuilt(&self) -> Option<Unbuilt>;
    /// As `build`, unless another thread is at it.
    fn build_alone(&self, generation: &Arc<Generation>) -> Option<Result<Built, Error>>;
}

impl<T: Send + Sync + 'static> AnySlot for Slot<T> {
    fn build(&self, generation: &Arc<Generation>) -> Result<Built, Error> {
        Ok(Box::new(version(&self.build, generation)?))
    }

    fn publish(&self, built: Built) -> Built {
        let built = built.downcast::<Arc<Version<T>>>().expect("a slot publishes what it built itself");
        let replaced = self.current.swap(*built);
        Box::new((replaced, self.unbuilt.swap(None), self.anew.swap(None)))
    }

    fn miss(&self, unbuilt: Unbuilt) {
        let number = unbuilt.generation;
        self.unbuilt.store(Some(Arc::new(unbuilt)));
        self.unbuilt_number.store(number, Ordering::Release);
    }

    fn unbuilt(&self) -> Option<Unbuilt> {
        self.unbuilt.load().as_deref().cloned()
    }

    fn build_alone(&self, generation: &Arc<Generation>) -> Option<Result<Built, Error>> {
        if self.is_mended.swap(true, Ordering::AcqRel) {
            return None;
        }
        let built = self.build(generation);
        self.is_mended.store(false, Ordering::Release);
        Some(built)
    }
}

/// Runs the application's code: its closure, and what shows its error.
fn version<T>(build: &Build<T>, generation: &Arc<Generation>) -> Result<Arc<Version<T>>, Error> {
    let built = catch_unwind(AssertUnwindSafe(|| {
        build(generation).map_err(|error| {
            // An error of ours keeps its reason and place; any other is the application's "no".
            error.downcast::<Error>().map_or_else(
                |other| Error::new(Reason::Rejected, format!("cannot build a derived value: {other}")),
                |ours| *ours,
            )
        })
    }));
    let value = built.map_err(|_| panicked("building a derived value"))??;
    Ok(Arc::new(Version { generation: Arc::clone(generation), value }))
}
