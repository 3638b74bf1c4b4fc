//! The fenced blocks of a page, and the command lines of the program in them.

#![allow(dead_code, reason = "each user uses a part of this")]

/// The fenced blocks: what stands behind the fence, and what is in it.
pub(crate) fn blocks(text: &str) -> Vec<(&str, String)> {
    let mut blocks: Vec<(&str, String)> = Vec::new();
    let mut open = false;
    for line in text.lines() {
        match line.strip_prefix("```") {
            Some(kind) if !open => {
                open = true;
                blocks.push((kind, String::new()));
            }
            Some(_) => open = false,
            None if open => {
                let (_, text) = blocks.last_mut().expect("one was opened");
                text.push_str(line);
                text.push('\n');
            }
            None => {}
        }
    }
    assert!(!open, "a block is not closed");
    blocks
}

/// The words of every command line of the program: of scripts, consoles and units, of lists in YAML, and behind the `--` of
/// another program. The first is the program.
pub(crate) fn command_lines(text: &str) -> Vec<Vec<String>> {
    let mut lines: Vec<Vec<String>> = Vec::new();
    for (kind, text) in blocks(text) {
        for line in text.lines().map(str::trim) {
            let line = line.split_once(" -- ").map_or(line, |(_, inner)| inner);
            let line = line.strip_prefix("ExecStart=").unwrap_or(line);
            if let Some(at) = line.find("[\"").filter(|_| kind == "yaml") {
                let mut list: Vec<String> = serde_json::from_str(&line[at..]).expect(line);
                list.retain(|word| word != "CMD");
                lines.push(list);
            } else if line
                .split(' ')
                .next()
                .is_some_and(|first| first.rsplit('/').next() == Some("certsource"))
            {
                let ours = line.split_whitespace().take_while(|word| !["|", ">", "&&"].contains(word));
                lines.push(ours.map(|word| word.trim_matches(['\'', '"']).to_owned()).collect());
            }
        }
    }
    lines
}
