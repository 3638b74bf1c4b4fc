//! The feature `manual`: every command has its page, and completions know every command and flag.

#![cfg(feature = "manual")]
#![allow(clippy::unwrap_used, reason = "a panic in a helper fails the test that called it")]

mod common;

use certsource_testkit::TestDir;

use crate::common::run;

const COMMANDS: [&str; 7] = ["demo", "get", "watch", "inspect", "check", "doctor", "exporter"];

#[test]
fn pages_and_completions_are_written() {
    let dir = TestDir::new().unwrap();
    let done = run(["manual".as_ref(), dir.path().as_os_str()]);
    assert_eq!((done.code, &*done.stdout, &*done.stderr), (Some(0), "", ""));
    let read = |name: String| std::fs::read_to_string(dir.join(name)).unwrap();
    let main = read("man1/certsource.1".into());
    for command in COMMANDS {
        assert!(main.contains(&format!("certsource\\-{command}(1)")), "{command}: {main}");
        let page = read(format!("man1/certsource-{command}.1"));
        assert!(page.starts_with(".ie") && page.contains(".SH EXAMPLES\n.nf\n  certsource "), "{page}");
    }
    assert!(!dir.join("man1/certsource-manual.1").exists());
    for shell in ["certsource.bash", "_certsource", "certsource.fish", "_certsource.ps1"] {
        let text = read(format!("completions/{shell}"));
        let words = COMMANDS.into_iter().chain(["old-ca", "expires-in", "timeline", "allow-host"]);
        for word in words {
            assert!(text.contains(word), "{shell}: {word}");
        }
    }
}

/// Judged by the shell itself, where there is one.
#[cfg(unix)]
#[test]
fn completions_are_understood_by_bash() {
    let dir = TestDir::new().unwrap();
    assert_eq!(run(["manual".as_ref(), dir.path().as_os_str()]).code, Some(0));
    let Ok(judged) = std::process::Command::new("bash")
        .args(["-n".as_ref(), dir.join("completions/certsource.bash").as_os_str()])
        .output()
    else {
        return;
    };
    assert!(judged.status.success(), "{}", String::from_utf8_lossy(&judged.stderr));
}

#[test]
fn a_directory_that_cannot_be_made_is_one_line() {
    let dir = TestDir::new().unwrap();
    let file = dir.write("file", "").unwrap();
    let done = run(["manual".as_ref(), file.join("below").as_os_str()]);
    assert_eq!(done.code, Some(2));
    assert!(done.error_line().starts_with("error: cannot make "), "{}", done.stderr);
}
