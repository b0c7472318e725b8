//! `--sweep FLAG=FIRST:LAST:STEP`: the values that a flag takes in turn.

/// Maximum number of values of a sweep.
const MOST: f64 = 1000.0;

/// A flag and its values.
#[derive(Clone, Debug, PartialEq)]
pub struct Sweep {
    /// The flag's name, without dashes.
    pub flag: String,
    /// Its values.
    pub range: Range,
}

/// Equally spaced values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    /// The first value.
    pub first: f64,
    /// The upper limit: no value is larger.
    pub last: f64,
    /// The distance from one value to the next.
    pub step: f64,
}

impl Range {
    /// Returns all values in order: the first one as it is, the others rounded to the decimals that it and the
    /// step need.
    pub fn values(self) -> Vec<f64> {
        let Range { first, last, step } = self;
        let count = ((last - first) / step + 1e-9).floor() as usize + 1;
        let smallest = if first == 0.0 { step } else { step.min(first.abs()) };
        let decimals = (6.0 - smallest.log10()).ceil().clamp(0.0, 300.0) as usize;
        let value = |n: usize| {
            let value = first + n as f64 * step;
            let rounded: f64 = format!("{value:.decimals$}").parse().unwrap_or(value);
            // The sum turns -0 into 0, which is another text.
            rounded + 0.0
        };
        std::iter::once(first).chain((1..count).map(value)).collect()
    }
}

impl Sweep {
    /// Makes a parser. `example` is a sweep that the tool takes, for messages.
    pub fn parser(
        example: &'static str,
    ) -> impl Fn(&str) -> Result<Sweep, String> + Clone + Send + Sync + 'static {
        move |text| Sweep::parse(text, example)
    }

    fn parse(text: &str, example: &str) -> Result<Sweep, String> {
        let wrong = || format!("expected FLAG=FIRST:LAST:STEP, such as {example}");
        let (flag, values) = text.split_once('=').ok_or_else(wrong)?;
        let number = |text: &str| text.parse::<f64>().map(|v| v + 0.0);
        let values: Vec<f64> =
            values.split(':').map(number).collect::<Result<_, _>>().map_err(|_| wrong())?;
        let &[first, last, step] = &values[..] else { return Err(wrong()) };
        if flag.is_empty() || ![first, last].iter().all(|v| v.abs() <= 1e9) {
            return Err(wrong());
        }
        if first > last || step.is_nan() || step <= 0.0 {
            return Err("LAST must not be below FIRST, and STEP must be above 0".into());
        }
        if (last - first) / step >= MOST {
            return Err(format!("has more than {MOST} values; use a larger STEP"));
        }
        Ok(Sweep { flag: flag.trim_start_matches('-').to_owned(), range: Range { first, last, step } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_have_both_ends() {
        let parse = Sweep::parser("lr=0.05:0.2:0.05");
        let values = |text: &str| parse(text).map(|s| s.range.values());
        assert_eq!(values("adjust=0:0.3:0.1"), Ok(vec![0.0, 0.1, 0.2, 0.3]));
        assert_eq!(values("--lr=1:1:0.5"), Ok(vec![1.0]));
        assert_eq!(values("x=-1:1.2:1"), Ok(vec![-1.0, 0.0, 1.0]));
        assert_eq!(values("x=1e-7:3e-7:1e-7"), Ok(vec![1e-7, 2e-7, 3e-7]));
        assert_eq!(values("x=0.05:0.2:0.05"), Ok(vec![0.05, 0.1, 0.15, 0.2]));
        assert_eq!(values("x=0.00000049:2:1"), Ok(vec![0.000_000_49, 1.000_000_49]));
        assert_eq!(values("x=1e-8:1:1"), Ok(vec![1e-8]));
        assert_eq!(format!("{:?}", values("x=-0:1:1")), "Ok([0.0, 1.0])");
        let bad = ["", "adjust", "adjust=0:1", "adjust=1:0:0.1", "adjust=0:1:0", "adjust=0:1:1e-9", "=0:1:1"];
        for text in bad.into_iter().chain(["adjust=0:1:-1", "adjust=0:nan:1", "adjust=0:1:nan"]) {
            assert!(parse(text).is_err(), "{text}");
        }
        let why = |text: &str| parse(text).expect_err("refused");
        assert_eq!(why("adjust"), "expected FLAG=FIRST:LAST:STEP, such as lr=0.05:0.2:0.05");
        assert!(why("adjust=1:0:0.1").contains("LAST must not be below FIRST"));
        assert!(why("adjust=0:1:nan").contains("STEP must be above 0"));
        assert!(why("adjust=0:1:1e-9").contains("more than 1000 values"));
    }
}
