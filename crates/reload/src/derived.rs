//! Derived values: built from a generation, published with it, replaced with it.

use std::any::Any;
use std::fmt;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arc_swap::ArcSwap;
use certsource::{Error, Reason};

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
/// It is built before its generation is published. When that fails, the last good generation stays, also when the new
/// one is a pure withdrawal: a generation is published with all of its derived values or not at all. That is told as
/// `rejected`, and tried again by itself, soon and then less often. Cheap to clone; it keeps the source followed.
///
/// Whoever has seen a generation, by [`Reloader::current`] or by any signal, finds a value of that one or of a newer
/// one here.
pub struct Derived<T> {
    slot: Arc<Slot<T>>,
    reloader: Reloader,
}

impl<T: Send + Sync + 'static> Derived<T> {
    pub(crate) fn new(slot: Arc<Slot<T>>, reloader: Reloader) -> Self {
        Self { slot, reloader }
    }

    /// The value of the generation that is served now. Never blocks; some nanoseconds.
    pub fn load(&self) -> Arc<Version<T>> {
        self.slot.current.load_full()
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
}

impl<T: Send + Sync + 'static> Slot<T> {
    pub(crate) fn start(build: Build<T>, generation: &Arc<Generation>) -> Result<Self, Error> {
        let first = version(&build, generation)?;
        Ok(Self { build, current: ArcSwap::from(first) })
    }

    /// For a slot that nobody has seen yet: a newer generation was published meanwhile.
    pub(crate) fn start_again(&self, generation: &Arc<Generation>) -> Result<(), Error> {
        self.current.store(version(&self.build, generation)?);
        Ok(())
    }
}

/// A value that was built, or replaced, and whose type is forgotten.
pub(crate) type Built = Box<dyn Any + Send>;

/// A slot whose type is forgotten.
pub(crate) trait AnySlot: Send + Sync {
    fn build(&self, generation: &Arc<Generation>) -> Result<Built, Error>;
    /// Replaces the value, and returns the one before: to be dropped where no lock is held.
    fn publish(&self, built: Built) -> Built;
}

impl<T: Send + Sync + 'static> AnySlot for Slot<T> {
    fn build(&self, generation: &Arc<Generation>) -> Result<Built, Error> {
        Ok(Box::new(version(&self.build, generation)?))
    }

    fn publish(&self, built: Built) -> Built {
        let built = built.downcast::<Arc<Version<T>>>().expect("a slot publishes what it built itself");
        Box::new(self.current.swap(*built))
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
