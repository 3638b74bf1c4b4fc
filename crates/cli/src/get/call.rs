//! What a request is made of, and who sends it.

use std::io::Read;

use anyhow::{Context, bail};
use certsource::Error;
use certsource_client::{Client, ServedBy};
use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode, Url, Version};

use super::Args;
use super::direct::{Direct, Facts};
use super::why;

/// A body from a file is held in memory, so that it can be sent again: larger ones are not for this program.
const LARGEST: u64 = 64 * 1024 * 1024;

/// A request, to be sent once or many times.
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) timeout: std::time::Duration,
}

/// Reads `PUT`.
pub(super) fn method(text: &str) -> Result<Method, String> {
    Method::from_bytes(text.as_bytes()).map_err(|_| String::from("write it as GET, POST, PUT, ..."))
}

/// Reads `Name: value`.
pub(super) fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let wrong = || String::from("write it as 'Name: value'");
    let (name, value) = text.split_once(':').ok_or_else(wrong)?;
    let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| wrong())?;
    Ok((name, HeaderValue::from_str(value.trim()).map_err(|_| wrong())?))
}

impl Call {
    pub(super) fn of(args: &Args) -> anyhow::Result<Self> {
        let mut headers = HeaderMap::new();
        for (name, value) in &args.headers {
            headers.append(name.clone(), value.clone());
        }
        let body = args.data.as_deref().map(body).transpose()?;
        if body.is_some() && !headers.contains_key(CONTENT_TYPE) {
            // As curl does.
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        }
        let method = args.method.clone().unwrap_or(if body.is_some() { Method::POST } else { Method::GET });
        Ok(Self {
            method,
            url: args.url.clone(),
            headers,
            body: body.unwrap_or_default(),
            timeout: args.timeout,
        })
    }
}

fn body(data: &str) -> anyhow::Result<Bytes> {
    let Some(path) = data.strip_prefix('@') else { return Ok(Bytes::from(data.to_owned())) };
    let mut bytes = Vec::new();
    if path == "-" {
        std::io::stdin()
            .lock()
            .take(LARGEST + 1)
            .read_to_end(&mut bytes)
            .context("cannot read standard input")?;
    } else {
        let failed = |error| Error::io("read the body of the request", path, error);
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(failed)?;
    }
    if bytes.len() as u64 > LARGEST {
        bail!(
            "the body of the request is larger than {} MiB; name a smaller file, or use a program that streams it",
            LARGEST / (1024 * 1024)
        );
    }
    Ok(bytes.into())
}

/// Who sends.
#[derive(Clone)]
pub(super) enum Sender {
    /// The library's client, with its pool.
    Client(Client),
    /// A connection for each request.
    Direct(Direct),
}

/// The head of an answer, and its body to come.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) version: Version,
    pub(super) headers: HeaderMap,
    /// The generation that it came by.
    pub(super) generation: u64,
    pub(super) facts: Option<Box<Facts>>,
    body: Body,
}

enum Body {
    Client(reqwest::Response),
    Direct(Incoming),
}

/// Why there is no answer, and how far it came.
pub(super) struct Failed {
    pub(super) why: String,
    pub(super) generation: u64,
    pub(super) facts: Option<Box<Facts>>,
}

impl Sender {
    pub(super) async fn send(&self, call: &Call) -> Result<Answer, Failed> {
        match self {
            Self::Client(client) => {
                let mut request =
                    client.request(call.method.clone(), call.url.clone()).headers(call.headers.clone());
                if !call.body.is_empty() {
                    request = request.body(call.body.clone());
                }
                let before = client.generation().number();
                match request.send().await {
                    Ok(response) => Ok(Answer {
                        status: response.status(),
                        version: response.version(),
                        headers: response.headers().clone(),
                        // It may have moved to newer certificates on its way.
                        generation: response
                            .extensions()
                            .get::<ServedBy>()
                            .map_or(before, |by| by.generation),
                        facts: None,
                        body: Body::Client(response),
                    }),
                    Err(failed) => {
                        // What no connection took was tried on the newest; else it failed where it began.
                        let generation =
                            if failed.is_connect() { client.generation().number() } else { before };
                        Err(Failed {
                            why: why::of(&failed, &call.url, call.timeout),
                            generation,
                            facts: None,
                        })
                    }
                }
            }
            Self::Direct(direct) => {
                let sent = direct.send(call).await?;
                let (head, body) = sent.response.into_parts();
                Ok(Answer {
                    status: head.status,
                    version: head.version,
                    headers: head.headers,
                    generation: sent.generation,
                    facts: Some(sent.facts),
                    body: Body::Direct(body),
                })
            }
        }
    }
}

impl Answer {
    /// The next piece of the body; `None` at its end.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, String> {
        match &mut self.body {
            Body::Client(response) => response.chunk().await.map_err(|failed| why::words(&failed)),
            Body::Direct(body) => loop {
                match body.frame().await {
                    None => return Ok(None),
                    Some(Err(failed)) => return Err(why::words(&failed)),
                    Some(Ok(frame)) => {
                        if let Ok(data) = frame.into_data() {
                            return Ok(Some(data));
                        }
                    }
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_and_methods_are_read() {
        let (name, value) = header("X-A:  b: c ").unwrap();
        assert_eq!((name.as_str(), value.to_str().unwrap()), ("x-a", "b: c"));
        assert!(header("no colon").is_err() && header("a b: c").is_err() && header("a: \u{1}").is_err());
        assert_eq!(method("PUT"), Ok(Method::PUT));
        assert!(method("P T").is_err());
        assert_eq!(body("a=b").unwrap(), Bytes::from("a=b"));
        assert!(body("@/no/such/file").is_err());
    }
}
