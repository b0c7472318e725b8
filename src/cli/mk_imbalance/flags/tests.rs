//! Tests of the flags of `mk-imbalance`.

use clap::CommandFactory;

use super::*;

#[test]
fn flags_that_would_do_nothing_are_refused_whatever_their_values_are() {
    let check = |line: &str| {
        let args = std::iter::once("mk-imbalance").chain(line.split_whitespace());
        Flags::try_parse_from(args).expect("clap takes them").check()
    };
    let (plain, files) = ("--dataset synthetic --imb-type none", "--dataset folder --data x --size 8");
    let max_pixels = format!("{plain} --max-pixels {MAX_PIXELS}");
    for (line, what) in [
        (format!("{plain} --rand-number 0"), "rand-number: does nothing here; it needs --imb-type exp"),
        (format!("{files} --seed 1 --val-fraction 0.1"), "rand-number: does nothing here"),
        (format!("{plain} --on-error fail"), "on-error: does nothing here; it needs image files"),
        (max_pixels, "max-pixels: does nothing here; it needs image files"),
    ] {
        let text = check(&line).expect_err(&line).to_string();
        assert!(text.starts_with(&format!("--{what}")), "{line}: {text}");
    }
    check(&format!("{plain} --seed 1 --val-fraction 0.1")).expect("validation images are drawn");
    check(&format!("{files} --seed 1 --max-per-class 3")).expect("training images are drawn");
}

#[test]
fn the_help_states_the_defaults() {
    let help = Flags::command().term_width(1000).render_long_help().to_string();
    let max_pixels = MAX_PIXELS.to_string();
    let all = [("--rand-number <N>", "0"), ("--max-pixels <N>", &*max_pixels), ("--on-error <WHAT>", "fail")];
    for (flag, default) in all {
        let (_, text) = help.split_once(flag).expect("the flag");
        let line = text.lines().nth(1).expect("its text");
        assert!(line.ends_with(&format!(" [default: {default}]")), "{flag}: {line}");
    }
}

#[test]
fn sizes_take_suffixes() {
    assert_eq!(parse_bytes("64M"), Ok(64 << 20));
    assert_eq!(parse_bytes("4096"), Ok(4096));
    assert_eq!(parse_bytes("8k"), Ok(8192));
    for bad in ["", "M", "1.5M", "-1", "64MB", "6µ"] {
        assert!(parse_bytes(bad).expect_err(bad).starts_with("expected a number of bytes"), "{bad}");
    }
    for large in ["99999999999999999999", "18446744073709551615G"] {
        assert_eq!(parse_bytes(large), Err("the number is too large".into()));
    }
}

#[test]
fn normalisation_is_named_or_given() {
    assert_eq!(normalise("imagenet"), Ok(Normalisation::By(Normalise::IMAGENET)));
    let given = Normalise { mean: [0.0, 0.5, 1.0], std: [1.0, 2.0, 0.5] };
    assert_eq!(normalise("0,0.5,1; 1,2,.5"), Ok(Normalisation::By(given)));
    for bad in ["", "0,0,0", "0,0,0;1,1", "0,0,0;1,1,0", "0,0,0;1,1,-1", "0,0,nan;1,1,1", "Imagenet"] {
        assert!(normalise(bad).is_err(), "{bad}");
    }
}
