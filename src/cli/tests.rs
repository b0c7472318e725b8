//! Tests of what the tools share.

use super::*;

#[test]
fn messages_may_begin_with_the_path_0_but_have_no_backtrace() {
    assert_eq!(one_line(&anyhow!("0: there is no such file")), "0: there is no such file");
    let with_frames = anyhow!("x: is\tdamaged\n   0: candle_core::error\n   1: main\n");
    assert_eq!(one_line(&with_frames), "x: is damaged");
}

#[test]
fn names_of_directories_stay_inside_their_parent() {
    for (text, expected) in
        [("clip", "clip"), ("a/b", "a-b"), ("/tmp/x", "-tmp-x"), ("../x", "-x"), ("größe 2", "größe-2")]
    {
        assert_eq!(safe_name(text).as_deref(), Some(expected));
    }
    assert_eq!(safe_name(&"x".repeat(1000)).map(|name| name.len()), Some(64));
    assert_eq!(safe_name(&"𠀀".repeat(1000)).map(|name| name.len()), Some(200), "letters of four bytes");
    for text in ["", ".", ".."] {
        assert_eq!(safe_name(text), None, "{text}");
    }
}
