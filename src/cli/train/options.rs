//! Mixes, losses and rules as values of flags, and their options as flags, all from the table of methods.

use std::sync::LazyLock;

use anyhow::{Result, bail};
use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::{Arg, ArgMatches, Args, Command, Error, FromArgMatches, value_parser};

use crate::methods::choice::{Choice, Domain, Kind, MethodOption, Setting, options};
use crate::methods::loss::LossKind;
use crate::methods::mix::MixKind;
use crate::methods::presets::Method;
use crate::methods::rule::RuleKind;

/// Returns a parser for the names of a kind, with a description of each.
pub fn names<K: Kind>() -> PossibleValuesParser {
    PossibleValuesParser::new(K::ALL.iter().map(|kind| {
        let entry = kind.entry();
        PossibleValue::new(entry.name).help(entry.about)
    }))
}

/// The flag of an option, with the part of a method and the names that have the option.
struct Flag {
    option: &'static MethodOption,
    /// Its name on the command line.
    long: &'static str,
    part: &'static str,
    names: Vec<&'static str>,
}

/// The flags of all mixes, losses and rules, each once.
static FLAGS: LazyLock<Vec<Flag>> = LazyLock::new(|| {
    fn of<K: Kind>() -> impl Iterator<Item = Flag> {
        let flag = |(option, names): (&'static MethodOption, _)| {
            // Leaked once for the life of the program, because clap takes `'static` names.
            Flag { option, long: option.flag().leak(), part: K::PART, names }
        };
        options::<K>().into_iter().map(flag)
    }
    of::<MixKind>().chain(of::<LossKind>()).chain(of::<RuleKind>()).collect()
});

/// The options that are given, with their values.
#[derive(Clone, Debug, Default)]
pub struct Given(Vec<(&'static str, Setting)>);

impl Args for Given {
    fn augment_args(command: Command) -> Command {
        command.args(FLAGS.iter().map(|Flag { option, long, .. }| {
            let about = format!("{} [default: {}]", option.about, option.default);
            let arg = Arg::new(*long).long(*long).help_heading("Options of the method");
            let arg = match option.more {
                "" => arg.help(about),
                more => arg.help(&about).long_help(format!("{about}\n\n{more}")),
            };
            match option.domain {
                Domain::Number { symbol, .. } => arg.value_name(symbol).value_parser(value_parser!(f64)),
                Domain::OneOf(symbol, words) => {
                    let word =
                        |(word, about): &(&'static str, &'static str)| PossibleValue::new(*word).help(*about);
                    arg.value_name(symbol).value_parser(PossibleValuesParser::new(words.iter().map(word)))
                }
            }
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Given::augment_args(command)
    }
}

impl FromArgMatches for Given {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Given, Error> {
        let given = |Flag { option, long, .. }: &Flag| {
            let value = match option.domain {
                Domain::Number { .. } => Setting::Number(*matches.get_one::<f64>(long)?),
                Domain::OneOf(_, words) => {
                    let asked = matches.get_one::<String>(long)?;
                    Setting::Word(words.iter().find(|(word, _)| word == asked)?.0)
                }
            };
            Some((option.name, value))
        };
        Ok(Given(FLAGS.iter().filter_map(given).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Given::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Given {
    /// Sets all of them in a method.
    ///
    /// # Errors
    /// Returns an error if one of them would have no effect.
    pub fn set(&self, mut method: Method) -> Result<Method> {
        for &(name, value) in &self.0 {
            if let Some(mix) = method.mix.try_with(name, value) {
                method.mix = mix;
            } else if let Some(loss) = method.loss.try_with(name, value) {
                method.loss = loss;
            } else if let Some(rule) = method.rule.try_with(name, value) {
                method.rule = rule;
            } else {
                let flag =
                    FLAGS.iter().find(|flag| flag.option.name == name).expect("it was read from there");
                let needs = condition(&method.mix, name)
                    .or_else(|| condition(&method.loss, name))
                    .or_else(|| condition(&method.rule, name))
                    .unwrap_or_else(|| format!("--{} {}", flag.part, one_of(&flag.names)));
                bail!("--{}: does nothing with this method; it needs {needs}", flag.long);
            }
        }
        Ok(method)
    }
}

/// Formats names as `a, b or c`.
fn one_of(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

/// Returns the flag and word that an option depends on, if any.
fn condition<K: Kind>(choice: &Choice<K>, name: &str) -> Option<String> {
    let option = choice.kind.entry().options.iter().find(|option| option.name == name)?;
    let (other, word) = option.only_with?;
    Some(format!("--{} {word}", other.replace('_', "-")))
}
