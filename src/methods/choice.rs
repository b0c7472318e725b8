//! The table of methods: each mix, loss and rule is a constant of its own with a name, a title, a source and
//! its options, from which the command line, the presets, the reports and the guide take them.
//!
//! What is chosen is a [`Choice`]: one of these constants with values for its options. In manifests it is an
//! object with the name and the options, such as `{"name": "focal", "gamma": 2.0}`.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value};

/// Room for the options of an entry.
const MOST: usize = 4;

/// A line of the table.
#[derive(Debug)]
pub struct Entry {
    /// On the command line and in manifests.
    pub name: &'static str,
    /// In reports, as papers print it.
    pub title: &'static str,
    /// What it does, in a line.
    pub about: &'static str,
    /// Authors and arXiv number of the paper; empty where it needs none.
    pub source: &'static str,
    /// What can be set.
    pub options: &'static [Opt],
}

/// Something that can be set.
#[derive(Debug)]
pub struct Opt {
    /// In manifests; on the command line with `-` for `_`.
    pub name: &'static str,
    /// What it is, in a line of `--help`.
    pub about: &'static str,
    /// More about it, for the long `--help`.
    pub more: &'static str,
    /// The values that it takes.
    pub domain: Domain,
    /// Its value unless asked otherwise; of [`Domain::OneOf`] the position of a word.
    pub default: f64,
    /// The option exists only while another option has this word.
    pub only_with: Option<(&'static str, &'static str)>,
}

/// The values of an option.
#[derive(Debug)]
pub enum Domain {
    /// A number.
    Number {
        /// What `--help` calls it.
        symbol: &'static str,
        /// Returns whether a number is allowed.
        check: fn(f64) -> bool,
        /// Says in words which numbers are allowed.
        why: &'static str,
    },
    /// One of some words, each with what it means; first what `--help` calls them.
    OneOf(&'static str, &'static [(&'static str, &'static str)]),
}

impl Opt {
    /// An option without more to say about it, that is always there.
    pub const fn new(name: &'static str, about: &'static str, default: f64, domain: Domain) -> Opt {
        Opt { name, about, more: "", domain, default, only_with: None }
    }

    /// The flag of the command line, without dashes before it.
    pub fn flag(&self) -> String {
        self.name.replace('_', "-")
    }

    /// A value as manifests have it.
    fn json(&self, value: f64) -> Value {
        match self.domain {
            Domain::Number { .. } => value.into(),
            Domain::OneOf(_, words) => words[value as usize].0.into(),
        }
    }

    /// A value of a manifest.
    fn read(&self, value: &Value) -> Result<f64, String> {
        match self.domain {
            Domain::Number { .. } => {
                value.as_f64().ok_or_else(|| format!("{} is {value}, which is not a number", self.name))
            }
            Domain::OneOf(_, words) => {
                words.iter().position(|(word, _)| value == word).map(|at| at as f64).ok_or_else(|| {
                    let all: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
                    format!("{} is {value}, which is not one of {}", self.name, all.join(", "))
                })
            }
        }
    }

    /// The default as `--help` shows it.
    pub fn usual(&self) -> String {
        match self.json(self.default) {
            Value::String(word) => word,
            _ => self.default.to_string(),
        }
    }
}

/// One of three kinds of things that make up a method.
pub trait Kind: Sized + 'static {
    /// What it is called: `mix`, `loss` or `rule`.
    const PART: &'static str;
    /// All there are.
    const ALL: &'static [&'static Self];

    /// Its line of the table.
    fn entry(&'static self) -> &'static Entry;
}

/// A line of the table, and values for its options.
pub struct Choice<K: 'static> {
    /// What was chosen.
    pub kind: &'static K,
    values: [f64; MOST],
}

impl<K> Clone for Choice<K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K> Copy for Choice<K> {}

impl<K: Kind> PartialEq for Choice<K> {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name() && self.set().map(|(_, v)| v).eq(other.set().map(|(_, v)| v))
    }
}

impl<K: Kind> fmt::Debug for Choice<K> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}", Value::Object(self.params()))
    }
}

impl<K: Kind> Choice<K> {
    /// A kind with the defaults of its options.
    pub fn new(kind: &'static K) -> Choice<K> {
        let mut values = [0.0; MOST];
        let options = kind.entry().options;
        values.iter_mut().zip(options).for_each(|(value, option)| *value = option.default);
        Choice { kind, values }
    }

    /// The kind of a name.
    pub fn named(name: &str) -> Option<Choice<K>> {
        K::ALL.iter().copied().find(|kind| kind.entry().name == name).map(Choice::new)
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.kind.entry().name
    }

    /// The options that are there, with their values.
    fn set(&self) -> impl Iterator<Item = (&'static Opt, f64)> {
        let options = self.kind.entry().options;
        let word = |name: &str| {
            let at = options.iter().position(|option| option.name == name)?;
            Some(options[at].json(self.values[at]))
        };
        let is_there = move |option: &Opt| {
            option.only_with.is_none_or(|(other, needed)| word(other).is_some_and(|word| word == needed))
        };
        options.iter().zip(self.values).filter(move |(option, _)| is_there(option))
    }

    /// The value of an option, where it is there.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.set().find(|(option, _)| option.name == name).map(|(_, value)| value)
    }

    /// The value of an option that the kind has.
    ///
    /// # Panics
    /// If the kind has no such option.
    pub fn value(&self, name: &str) -> f64 {
        self.get(name).unwrap_or_else(|| panic!("{} has no option {name}", self.name()))
    }

    /// Whether an option that the kind has is this word.
    ///
    /// # Panics
    /// If the kind has no such option.
    pub fn is(&self, name: &str, word: &str) -> bool {
        let (option, value) =
            self.set().find(|(option, _)| option.name == name).expect("an option of the kind");
        option.json(value) == word
    }

    /// Returns a copy with this option set, or `None` if the option does not apply.
    pub fn setting(mut self, name: &str, value: f64) -> Option<Choice<K>> {
        self.get(name)?;
        let at = self.kind.entry().options.iter().position(|option| option.name == name)?;
        self.values[at] = value;
        Some(self)
    }

    /// Returns a copy with this option set.
    ///
    /// # Panics
    /// If the kind has no such option.
    #[must_use]
    pub fn with(self, name: &str, value: f64) -> Choice<K> {
        self.setting(name, value).unwrap_or_else(|| panic!("{} has no option {name}", self.name()))
    }

    /// Returns a copy with an option set to one of its words.
    ///
    /// # Panics
    /// If the kind has no such option, or the option no such word.
    #[must_use]
    pub fn with_word(self, name: &str, word: &str) -> Choice<K> {
        let option = self.kind.entry().options.iter().find(|option| option.name == name);
        let value = option.and_then(|option| option.read(&word.into()).ok());
        self.with(name, value.unwrap_or_else(|| panic!("{} has no option {name} {word}", self.name())))
    }

    /// The first option whose value is not allowed, with that value and what is allowed.
    pub fn fault(&self) -> Option<(&'static Opt, f64, &'static str)> {
        self.set().find_map(|(option, value)| match option.domain {
            // Negative zero would be another key.
            Domain::Number { check, why, .. }
                if !check(value) || value == 0.0 && value.is_sign_negative() =>
            {
                Some((option, value, why))
            }
            _ => None,
        })
    }

    /// As it stands in manifests.
    pub fn params(&self) -> Map<String, Value> {
        let name = std::iter::once(("name".to_owned(), self.name().into()));
        name.chain(self.set().map(|(option, value)| (option.name.to_owned(), option.json(value)))).collect()
    }
}

impl<K: Kind> Serialize for Choice<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let params = self.params();
        let mut map = serializer.serialize_map(Some(params.len()))?;
        params.iter().try_for_each(|(name, value)| map.serialize_entry(name, value))?;
        map.end()
    }
}

impl<'de, K: Kind> Deserialize<'de> for Choice<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let params = Map::deserialize(deserializer)?;
        let name =
            params.get("name").and_then(Value::as_str).ok_or_else(|| D::Error::missing_field("name"))?;
        let mut choice = Choice::<K>::named(name)
            .ok_or_else(|| D::Error::custom(format!("there is no {} {name:?}", K::PART)))?;
        // In their order: whether one is there may depend on one before.
        for option in choice.kind.entry().options {
            if choice.get(option.name).is_none() {
                continue;
            }
            let value = params.get(option.name).ok_or_else(|| D::Error::missing_field(option.name))?;
            let value = option.read(value).map_err(D::Error::custom)?;
            choice = choice.with(option.name, value);
        }
        Ok(choice)
    }
}

/// Every option of a kind, each once, with the names of the entries that have it.
pub fn options<K: Kind>() -> Vec<(&'static Opt, Vec<&'static str>)> {
    let mut all: Vec<(&Opt, Vec<&str>)> = vec![];
    for entry in K::ALL.iter().map(|kind| kind.entry()) {
        for option in entry.options {
            match all.iter_mut().find(|(known, _)| known.name == option.name) {
                Some((_, names)) => names.push(entry.name),
                None => all.push((option, vec![entry.name])),
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::loss::LossKind;
    use crate::methods::mix::MixKind;
    use crate::methods::rule::RuleKind;

    fn check<K: Kind>() {
        for kind in K::ALL {
            let (entry, choice) = (kind.entry(), Choice::new(*kind));
            assert!(choice.fault().is_none(), "{}: its defaults are allowed", entry.name);
            assert_eq!(K::ALL.iter().filter(|other| other.entry().name == entry.name).count(), 1);
            assert!(entry.options.len() <= MOST);
            let text = serde_json::to_string(&choice).expect("JSON");
            assert_eq!(serde_json::from_str::<Choice<K>>(&text).expect("a choice"), choice);
        }
        for (option, names) in options::<K>() {
            for name in names {
                // An option of several has one meaning, and one flag.
                let own = Choice::<K>::named(name).expect("it is listed").kind.entry().options;
                let own = own.iter().find(|other| other.name == option.name).expect("it has it");
                let said = |option: &Opt| match option.domain {
                    Domain::Number { symbol, why, .. } => format!("{symbol} {why}"),
                    Domain::OneOf(symbol, words) => format!("{symbol} {words:?}"),
                };
                assert_eq!(
                    (own.about, own.more, own.default, said(own)),
                    (option.about, option.more, option.default, said(option)),
                    "{name} {}",
                    option.name
                );
            }
        }
    }

    #[test]
    fn the_table_is_sound() {
        check::<MixKind>();
        check::<LossKind>();
        check::<RuleKind>();
    }

    #[test]
    fn manifests_that_say_too_little_or_something_else_are_refused() {
        let read = |text: &str| serde_json::from_str::<Choice<LossKind>>(text).map_err(|e| e.to_string());
        assert!(read(r#"{"name":"focal","gamma":1}"#).is_ok_and(|loss| loss.value("gamma") == 1.0));
        let cases = [
            (r#"{"gamma":1.0}"#, "missing field `name`"),
            (r#"{"name":"fokal"}"#, "there is no loss \"fokal\""),
            (r#"{"name":"focal"}"#, "missing field `gamma`"),
            (r#"{"name":"focal","gamma":"x"}"#, "gamma is \"x\", which is not a number"),
        ];
        for (text, why) in cases {
            assert!(read(text).is_err_and(|e| e.contains(why)), "{text}");
        }
    }
}
