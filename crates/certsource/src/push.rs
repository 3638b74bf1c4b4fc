//! A source that is told its content: for streams such as the SPIFFE Workload API or a Kubernetes watch.

use std::sync::{Arc, Mutex, PoisonError};

use crate::clock::Now;
use crate::error::{Error, Reason};
use crate::origin::Origin;
use crate::parts::Parts;
use crate::source::{Alarm, Armed, Arrival, Look, Source, Wake};

/// Makes a source whose content is handed in, and the handle that hands it in.
///
/// What is pushed is whole: it is adopted at once. Until the first push, and after an error was pushed, reads fail;
/// the last good generation stays.
pub fn push(origin: Origin) -> (Pusher, impl Source) {
    let shared = Arc::new(Mutex::new(Shared { make: None, version: 0, wake: None }));
    (Pusher { shared: Arc::clone(&shared) }, Pushed { origin, shared, seen: None })
}

/// Behind a lock of its own, that only reads take: so a slow one blocks no push, and one may push from inside.
type Make = Arc<Mutex<dyn Fn() -> Result<Parts, Error> + Send>>;

struct Shared {
    make: Option<Make>,
    version: u64,
    wake: Option<Wake>,
}

/// Hands content to the source it was made with. Cheap to clone.
#[derive(Clone)]
pub struct Pusher {
    shared: Arc<Mutex<Shared>>,
}

impl Pusher {
    /// Hands in new content. `make` is called for each read of it, also more than once, because keys are not cloned.
    pub fn push(&self, make: impl Fn() -> Result<Parts, Error> + Send + 'static) {
        // The one before is dropped after the lock: its owner's code may run in that.
        let (wake, _before) = {
            let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
            shared.version += 1;
            (shared.wake.clone(), shared.make.replace(Arc::new(Mutex::new(make))))
        };
        if let Some(wake) = wake {
            wake.wake();
        }
    }

    /// Says that the stream is broken: the last good generation stays, and the failure is told.
    pub fn fail(&self, error: Error) {
        self.push(move || Err(error.clone()));
    }
}

impl std::fmt::Debug for Pusher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pusher")
    }
}

struct Pushed {
    origin: Origin,
    shared: Arc<Mutex<Shared>>,
    seen: Option<u64>,
}

impl Source for Pushed {
    fn origin(&self) -> Origin {
        self.origin.clone()
    }

    fn look(&mut self, _now: Now) -> Result<Look, Error> {
        let version = self.shared.lock().unwrap_or_else(PoisonError::into_inner).version;
        if self.seen == Some(version) {
            return Ok(Look::Same);
        }
        self.seen = Some(version);
        Ok(Look::Changed(Arrival::Swapped))
    }

    fn read(&mut self) -> Result<Parts, Error> {
        let make = self.shared.lock().unwrap_or_else(PoisonError::into_inner).make.clone();
        match make {
            Some(make) => {
                let make = make.lock().unwrap_or_else(PoisonError::into_inner);
                make().map_err(|e| if e.origin().is_none() { e.of(self.origin.clone()) } else { e })
            }
            None => Err(Error::new(
                Reason::NotFound,
                "nothing has been pushed yet; wait for the stream's first message",
            )
            .of(self.origin.clone())),
        }
    }

    fn arm(&mut self, alarm: &Alarm) -> Armed {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).wake = Some(alarm.wake().clone());
        Armed::Watching
    }
}
