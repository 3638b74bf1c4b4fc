//! Requests, a server and a publisher around the real files. The steps are those of `send.rs`, `connector.rs`, `drain.rs`
//! and `client.rs` of certsource-client, and of `publish` in certsource-reload.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, PoisonError, Weak};
use std::task::{Context, Poll};

use shuttle::future::{block_on, spawn, yield_now};
use shuttle::sync::mpsc::{Sender, channel};
use shuttle::thread;

use crate::flow::Flow;
use crate::generation::Retired;
use crate::pulse::{Lanes, Pulse};
use crate::sync::{AtomicBool, AtomicUsize, Mutex, Notify, Ordering, REGISTERS_LATE};
use crate::ticket::{Open, Ticket as Real, until_retired};
use crate::waiting::{Alarm, Replaced};

/// A streaming body, of which there is one: it comes back by the ticket when nobody asked for it.
struct Body;

type Ticket = Real<Body>;

/// How a request waits for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// For one that is being made, by a connector with a layer around it: the connect is raced against retirement. Its body
    /// is a stream.
    Connecting,
    /// For one that is being made, without a layer, and then in its queue: the request is taken back at retirement, and goes
    /// on when nobody has it any more and nobody has seen it. It must not be seen twice. Its body is a stream.
    Making,
    /// In the queue of one that is full: a request that may be repeated is taken back at retirement.
    Queued,
    /// In such a queue, and not to be repeated: it holds `reload` up.
    Held,
    /// As `Queued`, and its future is dropped at some moment.
    Dropped,
    /// In the queue of one that never looks at it, with a drain deadline: the attempt ends with it.
    Unanswered,
    /// As `Held`, with a drain deadline: its response ends only on a generation that stays, so on an older one it is cut.
    Answering,
    /// In the queue of one that closes without a look at it if it is old. Its body is a stream, which must come back.
    Streamed,
}

/// A mistake that a run must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// None: the files as they are.
    None,
    /// A waiter is registered after the flag was looked at.
    RegistersLate,
    /// Nobody tells the attempts that wait that their generation was replaced.
    Silent,
    /// A request is not counted between picking a generation and being taken.
    Uncounted,
    /// An old generation is drained before it is retired.
    DrainsFirst,
    /// A connection that closes ends the attempt before it gives the body back.
    GivesBackLate,
    /// A request that was taken back is sent again although a connection has seen it.
    IgnoresTouch,
    /// The drain deadline is not counted from the retirement.
    CutsEarly,
    /// An attempt is not ended by the drain deadline.
    Undrained,
    /// Whoever cuts a response polls it first: then its reader is not woken.
    StealsTheWaker,
}

/// One case.
#[derive(Clone, Debug)]
pub struct Plan {
    /// A thread each.
    pub requests: Vec<Kind>,
    /// So many generations are published after the first.
    pub rotations: usize,
    /// Whether connections of a replaced generation take requests. If not, whoever waits for one must be woken.
    pub old_connections_work: bool,
    /// Whether requests stay on the generation that they began with, with one redirect hop each, and `reload` waits for
    /// none of them. Then connections of a replaced generation must work.
    pub lazy: bool,
    /// What is done wrong.
    pub fault: Fault,
}

/// What the client has for one generation.
struct Lane {
    number: usize,
    pulse: Arc<Pulse>,
    retired: Retired,
    alarm: Alarm,
    /// Open when a connection is there.
    connected: Gate,
}

struct World {
    slot: Mutex<Arc<Lane>>,
    lanes: Lanes,
    /// `reload` has returned with this generation.
    settled: AtomicUsize,
    newest: usize,
    old_connections_work: bool,
    lazy: bool,
    fault: Fault,
    /// The responses that can be cut.
    flows: Mutex<Vec<Weak<Flow<Answer>>>>,
}

/// The body of a response.
struct Answer {
    /// Whether it ends by itself.
    ends: bool,
}

/// What a reader gets of a response in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Whole,
    Cut,
}

/// A request in the queue of a connection. The steps at its end are those of `Parcel` in `body.rs`.
struct Job {
    lane: usize,
    ticket: Arc<Ticket>,
    /// Of a stream, what nobody has asked for yet.
    body: Option<Body>,
    /// Whether a connection that closes drops it.
    is_stream: bool,
    gives_back_late: bool,
    /// So many connections have seen something of the request.
    seen: Arc<AtomicUsize>,
    /// Open when the attempt has an end: a connection took the request, or dropped it.
    ended: Arc<Gate>,
}

impl Drop for Job {
    fn drop(&mut self) {
        if self.gives_back_late {
            self.ended.open();
        }
        if let Some(body) = self.body.take() {
            self.ticket.give_back(Some(body));
        }
        self.ended.open();
    }
}

/// A flag that can be waited for.
#[derive(Default)]
struct Gate {
    is_open: AtomicBool,
    opened: Notify,
}

impl Gate {
    fn open(&self) {
        self.is_open.store(true, Ordering::SeqCst);
        self.opened.notify_waiters();
    }

    async fn passed(&self) {
        loop {
            // Right in every fault: this is the model's own.
            let mut opened = pin!(self.opened.notified());
            let is_open = poll_fn(|context| {
                let _ = opened.as_mut().poll(context);
                Poll::Ready(self.is_open.load(Ordering::SeqCst))
            });
            if is_open.await {
                return;
            }
            opened.await;
        }
    }
}

impl Lane {
    fn new(number: usize, fault: Fault) -> Arc<Self> {
        let retired = Retired::default();
        let alarm = match fault {
            Fault::Silent => Alarm::set(&Retired::default()),
            _ => Alarm::set(&retired),
        };
        Arc::new(Self { number, pulse: Arc::default(), alarm, retired, connected: Gate::default() })
    }

    fn replaced(&self) -> Replaced<'_> {
        Replaced::new(&self.retired, &self.alarm)
    }
}

impl World {
    fn load(&self) -> Arc<Lane> {
        Arc::clone(&self.slot.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Publishes a generation, and returns when `reload` would.
    async fn publish(&self, number: usize) {
        let lane = Lane::new(number, self.fault);
        self.lanes.add(number as u64, &lane.pulse);
        if self.fault == Fault::DrainsFirst {
            self.lanes.drain_before(number as u64).await;
        }
        let previous =
            std::mem::replace(&mut *self.slot.lock().unwrap_or_else(PoisonError::into_inner), lane);
        previous.retired.retire();
        drop(previous);
        if self.fault != Fault::DrainsFirst && !self.lazy {
            self.lanes.drain_before(number as u64).await;
        }
        self.settled.store(number, Ordering::SeqCst);
    }

    /// Resolves when the drain deadline of a lane has passed: at any time after its retirement.
    async fn deadline(&self, lane: &Lane) {
        if self.fault != Fault::CutsEarly {
            lane.retired.replaced().await;
        }
        yield_now().await;
    }

    /// Reads a response to its end, or until it is cut: as `Drain::watch` and `Watched` do.
    async fn read(self: &Arc<Self>, lane: &Arc<Lane>) -> End {
        let flow = Arc::new(Flow::new(Answer { ends: lane.number == self.newest }));
        let weak = Arc::downgrade(&flow);
        self.flows.lock().unwrap_or_else(PoisonError::into_inner).push(weak.clone());
        let watch = spawn({
            let (world, lane) = (Arc::clone(self), Arc::clone(lane));
            async move {
                world.deadline(&lane).await;
                if world.fault == Fault::StealsTheWaker {
                    steal(&weak);
                }
                if let Some(flow) = weak.upgrade() {
                    flow.cut();
                }
            }
        });
        let end = poll_fn(|context| {
            match flow.poll(context, |answer, _| if answer.ends { Poll::Ready(()) } else { Poll::Pending }) {
                None => Poll::Ready(End::Cut),
                Some(polled) => polled.map(|()| End::Whole),
            }
        })
        .await;
        watch.abort();
        end
    }

    fn works(&self, lane: usize) -> bool {
        self.old_connections_work || lane == self.newest
    }

    /// One request, until a connection takes it. Returns the number of its generation; `None` when it failed, because its
    /// connection closed while its generation was current.
    async fn send(self: &Arc<Self>, kind: Kind, queue: &Sender<Job>) -> Option<usize> {
        let begun = self.settled.load(Ordering::SeqCst);
        let is_stream = matches!(kind, Kind::Connecting | Kind::Making | Kind::Streamed);
        let mut body = is_stream.then_some(Body);
        let seen = Arc::new(AtomicUsize::new(0));
        let mut kept: Option<Arc<Lane>> = None;
        let mut hops = usize::from(self.lazy);
        loop {
            let (lane, ticket) = loop {
                let lane = kept.take().unwrap_or_else(|| self.load());
                let uncounted = Arc::default();
                let pulse = if self.fault == Fault::Uncounted { &uncounted } else { &lane.pulse };
                if let Some(ticket) = Ticket::take(pulse) {
                    break (lane, ticket);
                }
            };
            assert!(lane.number >= begun, "a request that began after `reload` picked an older generation");
            let open = Open(ticket);
            let ended = Arc::new(Gate::default());
            let job = Job {
                lane: lane.number,
                ticket: Arc::clone(&open.0),
                body: body.take(),
                is_stream,
                gives_back_late: self.fault == Fault::GivesBackLate,
                seen: Arc::clone(&seen),
                ended: Arc::clone(&ended),
            };
            match kind {
                Kind::Connecting => {
                    if unless(lane.retired.replaced(), lane.connected.passed()).await {
                        queue.send(job).expect("the server outlives the requests");
                        ended.passed().await;
                    } else {
                        drop(job);
                    }
                }
                Kind::Making => {
                    let attempt = Box::pin(async {
                        lane.connected.passed().await;
                        queue.send(job).expect("the server outlives the requests");
                        ended.passed().await;
                    });
                    let gone = until_retired(attempt, lane.replaced(), &open.0).await;
                    if gone.is_none() {
                        open.0.end();
                        let back = open.0.back().await;
                        if back.is_touched && self.fault != Fault::IgnoresTouch {
                            return None;
                        }
                        body = back.body;
                        continue;
                    }
                    assert!(seen.load(Ordering::SeqCst) < 2, "a request was seen twice");
                }
                Kind::Held | Kind::Streamed | Kind::Answering => {
                    queue.send(job).expect("the server outlives the requests");
                    ended.passed().await;
                }
                Kind::Unanswered => {
                    queue.send(job).expect("the server outlives the requests");
                    let deadline = async {
                        if self.fault == Fault::Undrained {
                            std::future::pending::<()>().await;
                        }
                        self.deadline(&lane).await;
                    };
                    if unless(ended.passed(), deadline).await {
                        // It may have been seen, so it is not sent again.
                        return None;
                    }
                }
                Kind::Queued | Kind::Dropped => {
                    queue.send(job).expect("the server outlives the requests");
                    let attempt = pin!(ended.passed());
                    until_retired(attempt, lane.replaced(), &open.0).await;
                }
            }
            open.0.end();
            if !open.0.is_committed() {
                body = open.0.returned_body();
                assert_eq!(body.is_some(), is_stream, "a body that nobody asked for is lost");
                if !lane.retired.is_retired() {
                    return None;
                }
            } else if hops == 0 {
                if kind == Kind::Answering && self.read(&lane).await == End::Cut {
                    assert!(lane.retired.is_retired(), "a response of a generation that is served was cut");
                }
                return Some(lane.number);
            } else {
                // The hop of a redirect: a stream would not be sent again.
                hops -= 1;
                kept = Some(lane);
            }
        }
    }

    /// What a connection does with a request in its queue.
    fn take(&self, mut job: Job) {
        let settled = self.settled.load(Ordering::SeqCst);
        job.seen.fetch_add(1, Ordering::SeqCst);
        // If it is not committed, its head is out over HTTP/2.
        if job.ticket.commit() {
            assert!(
                settled <= job.lane || self.lazy,
                "a connection of generation {} took a request after `reload` returned with {settled}",
                job.lane
            );
            job.body = None;
        }
    }
}

/// Polls a response that another one reads.
fn steal(flow: &Weak<Flow<Answer>>) {
    if let Some(flow) = flow.upgrade() {
        let mut context = Context::from_waker(std::task::Waker::noop());
        flow.poll(&mut context, |_, _| Poll::<()>::Pending);
    }
}

/// Polls `first` before `second`; whether `second` came.
async fn unless(first: impl Future<Output = ()>, second: impl Future<Output = ()>) -> bool {
    let (mut first, mut second) = (pin!(first), pin!(second));
    poll_fn(move |context| {
        if first.as_mut().poll(context).is_ready() {
            return Poll::Ready(false);
        }
        second.as_mut().poll(context).map(|()| true)
    })
    .await
}

/// A future that is given up after some polls, or by itself.
struct GivenUp<F> {
    future: Option<Pin<Box<F>>>,
    after: usize,
}

impl<F: Future> Future for GivenUp<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Some(future) = &mut self.future else { return Poll::Ready(()) };
        if future.as_mut().poll(context).is_ready() || self.after == 0 {
            self.future = None;
            return Poll::Ready(());
        }
        self.after -= 1;
        // It may wait for nothing that comes: then it is given up all the same.
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Runs a case once, under shuttle.
///
/// # Panics
/// When one of these does not hold: nothing is given to an old connection after `reload` returned; a request that begins
/// after that uses the new generation; nobody sleeps for ever (shuttle tells a deadlock); nothing of an old generation
/// is left.
pub fn run(plan: &Plan) {
    REGISTERS_LATE.set(plan.fault == Fault::RegistersLate);
    let first = Lane::new(1, plan.fault);
    let world = Arc::new(World {
        lanes: Lanes::default(),
        settled: AtomicUsize::new(1),
        newest: plan.rotations + 1,
        old_connections_work: plan.old_connections_work,
        lazy: plan.lazy,
        fault: plan.fault,
        flows: Mutex::default(),
        slot: Mutex::new(Arc::clone(&first)),
    });
    world.lanes.add(1, &first.pulse);
    let old: Weak<Pulse> = Arc::downgrade(&first.pulse);
    let works = world.works(1);
    // A connect that ends at some moment, or never.
    let connecting = thread::spawn(move || {
        if works {
            first.connected.open();
        }
    });

    let (queue, jobs) = channel::<Job>();
    let server = thread::spawn({
        let world = Arc::clone(&world);
        move || {
            let mut waiting: HashMap<usize, Vec<Job>> = HashMap::new();
            while let Ok(job) = jobs.recv() {
                if world.works(job.lane) {
                    world.take(job);
                } else if !job.is_stream {
                    waiting.entry(job.lane).or_default().push(job);
                }
            }
        }
    });
    let requests: Vec<_> = plan
        .requests
        .iter()
        .map(|&kind| {
            let (world, queue) = (Arc::clone(&world), queue.clone());
            thread::spawn(move || {
                block_on(async {
                    let send = world.send(kind, &queue);
                    if kind == Kind::Dropped {
                        GivenUp { future: Some(Box::pin(send)), after: 2 }.await;
                    } else {
                        let number = send.await;
                        let works = number.is_none_or(|number| world.works(number));
                        assert!(works, "it was taken by a connection that takes nothing");
                    }
                });
            })
        })
        .collect();
    drop(queue);
    let rotations = plan.rotations;
    let publisher = thread::spawn({
        let world = Arc::clone(&world);
        move || {
            block_on(async {
                for number in 2..=rotations + 1 {
                    world.publish(number).await;
                    let lane = world.load();
                    if world.works(number) {
                        lane.connected.open();
                    }
                }
            });
        }
    });
    for request in requests {
        request.join().expect("a request");
    }
    publisher.join().expect("the publisher");
    connecting.join().expect("the connect");
    server.join().expect("the server");
    assert_eq!(world.settled.load(Ordering::SeqCst), rotations + 1, "`reload` returned");
    let flows = std::mem::take(&mut *world.flows.lock().unwrap_or_else(PoisonError::into_inner));
    assert!(flows.iter().all(|flow| flow.strong_count() == 0), "a response is left");
    drop(world);
    assert_eq!(old.strong_count(), usize::from(rotations == 0), "the old generation is gone");
}
