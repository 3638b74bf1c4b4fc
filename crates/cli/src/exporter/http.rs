//! The exporter's server: GET and HEAD, a handful of paths, and only for hosts that are meant.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::{State, text};

/// Connections at the same time.
const CONNECTIONS: usize = 64;
/// A client that takes longer for the head of a request is let go.
const HEAD: Duration = Duration::from_secs(10);
/// No connection lasts longer.
const LONG: Duration = Duration::from_secs(300);
/// The text format of Prometheus.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";

/// Answers until it is dropped.
pub(super) async fn accept(listener: TcpListener, state: Arc<State>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors: some come back when connections end.
            sleep(Duration::from_millis(20)).await;
            continue;
        };
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let answer = answer(&request, &state);
                async move { Ok::<_, Infallible>(answer) }
            });
            let serving = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD)
                .serve_connection(TokioIo::new(stream), service);
            if let Ok(Err(error)) = timeout(LONG, serving).await {
                tracing::debug!(%error, "a connection broke");
            }
            drop(permit);
        });
    }
}

fn answer(request: &Request<Incoming>, state: &State) -> Response<Full<Bytes>> {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    if !host.is_some_and(|host| is_meant(host, &state.hosts)) {
        // A page in a browser can make a name of its own mean this address, and read what is here.
        return plain(
            StatusCode::FORBIDDEN,
            "this host name is not allowed here: --allow-host allows it\n".into(),
        );
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "use GET\n".into());
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    match request.uri().path() {
        "/metrics" => with(StatusCode::OK, METRICS, text::metrics(state, SystemTime::now())),
        // Whether the program lives. Certificates are no matter of this.
        "/healthz" => plain(StatusCode::OK, "ok\n".into()),
        "/readyz" if state.is_ready() => plain(StatusCode::OK, "ready\n".into()),
        "/readyz" => plain(StatusCode::SERVICE_UNAVAILABLE, "not ready: nothing valid is served\n".into()),
        "/problems" if state.show_details => plain(StatusCode::OK, problems(state)),
        "/" => plain(StatusCode::OK, "certsource exporter: /metrics /healthz /readyz\n".into()),
        _ => plain(StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz\n".into()),
    }
}

fn problems(state: &State) -> String {
    let snapshot = state.snapshot();
    let sources = snapshot.iter().flat_map(|snapshot| &snapshot.sources);
    let mut lines: Vec<_> = sources.flat_map(|source| source.problems.clone()).collect();
    lines.extend(state.followed.as_ref().and_then(|followed| followed.problem()));
    if lines.is_empty() { String::from("none\n") } else { lines.join("\n") + "\n" }
}

/// An address cannot be made to mean another; of names, only those that are known are.
fn is_meant(host: &str, allowed: &[String]) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    name.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(name))
}

fn plain(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    with(status, PLAIN, body)
}

fn with(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_others_are_refused() {
        let allowed = [String::from("node1.example")];
        for host in [
            "localhost:9793",
            "LOCALHOST",
            "localhost.",
            "127.0.0.1:9793",
            "[::1]:9793",
            "10.1.2.3",
            "Node1.Example:1",
        ] {
            assert!(is_meant(host, &allowed), "{host}");
        }
        for host in
            ["", "evil.example", "localhost.evil.example:9793", "127.0.0.1.evil.example", "[evil]", ":9793"]
        {
            assert!(!is_meant(host, &allowed), "{host}");
        }
    }
}
