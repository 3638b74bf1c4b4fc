//! Redirects are followed as reqwest follows them, hop by hop; what reqwest does is the oracle where that is possible.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use certsource_client::reqwest::header::{AUTHORIZATION, COOKIE, HeaderMap, HeaderValue, REFERER};
use certsource_client::reqwest::{self, Body, Method, StatusCode};
use certsource_client::{Client, Redirects};
use certsource_testkit::{Ca, KubeletDir};
use http_body_util::BodyExt;

use common::{Gated, Server, Tls, builder, redirect, reply};

/// `/STATUS/PATH` redirects to `/PATH`; `/loop` to itself; anything else echoes the body.
async fn server(tls: Tls<'_>) -> Server {
    Server::with(tls, |request| async move {
        let path = request.uri().path().to_owned();
        let is_head = request.method() == Method::HEAD;
        let body = request.into_body().collect().await.unwrap().to_bytes();
        if path == "/loop" {
            return redirect(307, "/loop");
        }
        match path[1..].split_once('/').map(|(status, rest)| (status.parse::<u16>(), rest)) {
            Some((Ok(status), to)) if to.starts_with("https") => {
                redirect(status, &to.replacen(":/", "://", 1))
            }
            Some((Ok(status), to)) => redirect(status, &format!("/{to}")),
            _ if is_head => reply(StatusCode::OK, ""),
            _ => reply(StatusCode::OK, body),
        }
    })
    .await
}

/// A client and the plain reqwest client with the same settings.
async fn pair(redirects: Redirects) -> (Ca, KubeletDir, Client, reqwest::Client) {
    let ca = Ca::new("ca");
    let dir = KubeletDir::new(ca.issue("localhost")).unwrap();
    let ours = builder(dir.path()).redirect(redirects).build().await.unwrap();
    let theirs = ours.snapshot().unwrap();
    (ca, dir, ours, theirs)
}

fn comparable(headers: &HeaderMap, port: u16) -> BTreeMap<String, String> {
    let text = |value: &HeaderValue| value.to_str().unwrap().replace(&port.to_string(), "PORT");
    headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}

#[tokio::test]
async fn every_method_and_status_goes_as_with_reqwest() {
    let (ca, _dir, ours, theirs) = pair(Redirects::default()).await;
    let leaf = ca.issue("localhost");
    let (one, two) = (server(Tls::of(&leaf)).await, server(Tls::of(&leaf)).await);
    for method in [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE] {
        for status in [301, 302, 303, 307, 308] {
            for body in [None, Some("a body"), Some("a stream")] {
                let path = format!("/{status}/302/end#fragment");
                let make = || match body {
                    None => None,
                    Some("a stream") => Some(Body::wrap(Gated::new([(None, "a "), (None, "stream")]))),
                    Some(text) => Some(Body::from(text)),
                };
                let mut mine = ours.request(method.clone(), one.url(&path)).header("x-mine", "1");
                let mut its = theirs.request(method.clone(), two.url(&path)).header("x-mine", "1");
                if let (Some(body), Some(same)) = (make(), make()) {
                    mine = mine.body(body).header("content-type", "text/plain");
                    its = its.body(same).header("content-type", "text/plain");
                }
                let (mine, its) = (mine.send().await.unwrap(), its.send().await.unwrap());
                let what = format!("{method} {status} {body:?}");
                assert_eq!(mine.status(), its.status(), "{what}");
                assert_eq!(mine.url().path(), its.url().path(), "{what}");
                assert_eq!(mine.url().fragment(), its.url().fragment(), "{what}");
                assert_eq!(mine.text().await.unwrap(), its.text().await.unwrap(), "{what}");
                let (mine, its) = (one.forget(), two.forget());
                assert_eq!(mine.len(), its.len(), "{what}");
                for (mine, its) in mine.iter().zip(&its) {
                    assert_eq!((&mine.method, &mine.path), (&its.method, &its.path), "{what}");
                    assert_eq!(
                        comparable(&mine.headers, one.address().port()),
                        comparable(&its.headers, two.address().port()),
                        "{what}"
                    );
                }
            }
        }
    }
}

#[tokio::test]
async fn too_many_redirects_are_reqwests_own_error() {
    for limit in [0, 1, 3] {
        let (ca, _dir, ours, theirs) = pair(Redirects::limited(limit)).await;
        let leaf = ca.issue("localhost");
        for body in ["", "not empty"] {
            let (one, two) = (server(Tls::of(&leaf)).await, server(Tls::of(&leaf)).await);
            let mine = ours.post(one.url("/loop")).body(body).send().await.unwrap_err();
            let its = theirs.post(two.url("/loop")).body(body).send().await.unwrap_err();
            assert!(mine.is_redirect() && its.is_redirect(), "{mine:?}");
            assert_eq!(mine.url().unwrap().path(), its.url().unwrap().path());
            assert_eq!(mine.without_url().to_string(), its.without_url().to_string());
            assert_eq!((one.seen().len(), two.seen().len()), (limit + 1, limit + 1));
        }
    }
}

#[tokio::test]
async fn none_returns_the_redirect() {
    let (ca, _dir, ours, _) = pair(Redirects::none()).await;
    let leaf = ca.issue("localhost");
    let server = server(Tls::of(&leaf)).await;
    assert_eq!(ours.get(server.url("/302/x")).send().await.unwrap().status(), StatusCode::FOUND);
    assert_eq!(server.seen().len(), 1);
}

/// Unlike reqwest 0.13.5, which sends them again on the second hop within the other host.
#[tokio::test]
async fn sensitive_headers_never_reach_another_origin() {
    let ca = Ca::new("ca");
    let leaf = ca.issue("localhost");
    let dir = KubeletDir::new(&leaf).unwrap();
    let (first, other) = (server(Tls::of(&leaf)).await, server(Tls::of(&leaf)).await);
    let mut defaults = HeaderMap::new();
    defaults.insert(AUTHORIZATION, HeaderValue::from_static("Bearer default"));
    defaults.insert("x-harmless", HeaderValue::from_static("1"));
    let client = builder(dir.path()).default_headers(defaults).build().await.unwrap();
    let there = format!("https:/localhost:{}/302/end", other.address().port());
    let request = client.get(first.url(&format!("/302/302/{there}"))).header(COOKIE, "a=b");
    let response = request.send().await.unwrap();
    assert_eq!(response.url().path(), "/end");
    for seen in first.seen() {
        assert_eq!(seen.headers[AUTHORIZATION], "Bearer default");
        assert_eq!(seen.headers[COOKIE], "a=b");
    }
    assert_eq!((first.seen().len(), other.seen().len()), (2, 2));
    for seen in other.seen() {
        assert!(!seen.headers.contains_key(AUTHORIZATION) && !seen.headers.contains_key(COOKIE), "{seen:?}");
        assert_eq!(seen.headers["x-harmless"], "1");
        assert!(seen.headers.contains_key(REFERER));
    }
}

/// A default header that reqwest alone knows could not be taken off for another host.
#[tokio::test]
async fn a_secret_in_reqwests_own_default_headers_is_refused() {
    let ca = Ca::new("ca");
    let dir = KubeletDir::new(ca.issue("localhost")).unwrap();
    let headers = Arc::new(HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static("Bearer x"))]));
    let with = |redirects| {
        let headers = Arc::clone(&headers);
        builder(dir.path()).reqwest(move |b| b.default_headers((*headers).clone())).redirect(redirects)
    };
    let error = with(Redirects::default()).build().await.unwrap_err();
    assert!(error.to_string().contains("Builder::default_headers"), "{error}");
    with(Redirects::none()).build().await.unwrap();
}

#[tokio::test]
async fn no_referer_if_unwanted() {
    let ca = Ca::new("ca");
    let leaf = ca.issue("localhost");
    let dir = KubeletDir::new(&leaf).unwrap();
    for client in [
        builder(dir.path()).referer(false).build().await.unwrap(),
        builder(dir.path()).reqwest(|b| b.referer(false)).build().await.unwrap(),
    ] {
        let server = server(Tls::of(&leaf)).await;
        client.get(server.url("/302/end")).send().await.unwrap();
        assert!(!server.last().headers.contains_key(REFERER));
    }
}

#[cfg(feature = "cookies")]
#[tokio::test]
async fn a_jar_serves_every_hop_and_every_generation() {
    use certsource_client::reqwest::cookie::Jar;
    let ca = Ca::new("ca");
    let leaf = ca.issue("localhost");
    let dir = KubeletDir::new(&leaf).unwrap();
    let client = builder(dir.path()).cookie_jar(Arc::new(Jar::default())).build().await.unwrap();
    let server = Server::with(Tls::of(&leaf), |request| async move {
        let mut response = match request.uri().path() {
            "/set" => redirect(302, "/hop"),
            _ => reply(StatusCode::OK, "ok"),
        };
        if request.uri().path() == "/set" {
            response.headers_mut().insert("set-cookie", "mark=1".parse().unwrap());
        }
        response
    })
    .await;
    client.get(server.url("/set")).send().await.unwrap();
    assert_eq!(server.last().headers[COOKIE], "mark=1");
    dir.swap(ca.issue("localhost")).unwrap();
    client.reload().await.unwrap();
    client.get(server.url("/later")).send().await.unwrap();
    assert_eq!(server.last().headers[COOKIE], "mark=1");
}
