//! The table of methods: each mix, loss and rule is a constant with a name, a title, a source and its
//! options. The command line, the presets, the reports and the guide are generated from these.
//!
//! A [`Choice`] is one of these constants, with values for its options. In manifests it is an object with the
//! name and the options, such as `{"name": "focal", "gamma": 2.0}`.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value};

/// Maximum number of options of an entry.
pub const MAX_OPTIONS: usize = 4;

/// An entry of the table.
#[derive(Debug)]
pub struct Entry {
    /// Name on the command line and in manifests.
    pub name: &'static str,
    /// Title in reports, as printed in papers.
    pub title: &'static str,
    /// Description in one line.
    pub about: &'static str,
    /// Authors and arXiv number of the paper; empty if no source is needed.
    pub source: &'static str,
    /// The options that can be set.
    pub options: &'static [MethodOption],
}

/// An option of a mix, loss or rule.
#[derive(Debug)]
pub struct MethodOption {
    /// Name in manifests; on the command line with `-` for `_`.
    pub name: &'static str,
    /// Description in one line of `--help`.
    pub about: &'static str,
    /// Further description, for the long `--help`.
    pub more: &'static str,
    /// The values that the option accepts.
    pub domain: Domain,
    /// Default value.
    pub default: Setting,
    /// Name and word of another option: this option exists only while the other one has this word.
    pub only_with: Option<(&'static str, &'static str)>,
}

/// The value of an option.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Setting {
    /// A number.
    Number(f64),
    /// One of the option's words.
    Word(&'static str),
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Setting::Number(number) => write!(f, "{number}"),
            Setting::Word(word) => write!(f, "{word}"),
        }
    }
}

impl From<Setting> for Value {
    fn from(value: Setting) -> Value {
        match value {
            Setting::Number(number) => number.into(),
            Setting::Word(word) => word.into(),
        }
    }
}

/// The values that an option accepts.
#[derive(Debug)]
pub enum Domain {
    /// A number.
    Number {
        /// Name of the number in `--help`.
        symbol: &'static str,
        /// Returns whether a number is allowed.
        check: fn(f64) -> bool,
        /// Message that says which numbers are allowed.
        why: &'static str,
    },
    /// One of several words, each with its meaning; `--help` shows the first field as the name of the value.
    OneOf(&'static str, &'static [(&'static str, &'static str)]),
}

impl MethodOption {
    /// Creates an option that always exists and has no further description.
    pub const fn new(name: &'static str, about: &'static str, default: Setting, domain: Domain) -> Self {
        MethodOption { name, about, more: "", domain, default, only_with: None }
    }

    /// Returns the flag on the command line, without leading dashes.
    pub fn flag(&self) -> String {
        self.name.replace('_', "-")
    }

    /// Returns whether a value is of the right kind: any number, or one of the words.
    fn accepts(&self, value: Setting) -> bool {
        match (&self.domain, value) {
            (Domain::Number { .. }, Setting::Number(_)) => true,
            (Domain::OneOf(_, words), Setting::Word(word)) => words.iter().any(|(known, _)| *known == word),
            _ => false,
        }
    }

    /// Reads a value from a manifest.
    fn read(&self, value: &Value) -> Result<Setting, String> {
        match self.domain {
            Domain::Number { .. } => {
                let number = value.as_f64().map(Setting::Number);
                number.ok_or_else(|| format!("{} is {value}, which is not a number", self.name))
            }
            Domain::OneOf(_, words) => {
                let words = words.iter().map(|&(word, _)| word);
                words.clone().find(|word| value == word).map(Setting::Word).ok_or_else(|| {
                    let all: Vec<&str> = words.collect();
                    format!("{} is {value}, which is not one of {}", self.name, all.join(", "))
                })
            }
        }
    }
}

/// A kind of part that methods are made of.
pub trait Kind: Sized + 'static {
    /// Name of the part: `mix`, `loss` or `rule`.
    const PART: &'static str;
    /// All entries of this kind.
    const ALL: &'static [&'static Self];

    /// Returns the entry in the table.
    fn entry(&'static self) -> &'static Entry;
}

/// An entry of the table, with values for its options.
pub struct Choice<K: 'static> {
    /// The chosen entry.
    pub kind: &'static K,
    /// A value for each option of the entry, in order; the rest is unused.
    values: [Setting; MAX_OPTIONS],
}

impl<K> Clone for Choice<K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K> Copy for Choice<K> {}

impl<K: Kind> PartialEq for Choice<K> {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name() && self.active().map(|(_, v)| v).eq(other.active().map(|(_, v)| v))
    }
}

impl<K: Kind> fmt::Debug for Choice<K> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}", Value::Object(self.params()))
    }
}

impl<K: Kind> Choice<K> {
    /// Creates a choice of an entry with default options.
    ///
    /// # Panics
    /// Panics if the entry has more than [`MAX_OPTIONS`] options.
    pub fn new(kind: &'static K) -> Choice<K> {
        let Entry { name, options, .. } = kind.entry();
        assert!(options.len() <= MAX_OPTIONS, "{name} has more than {MAX_OPTIONS} options");
        let mut values = [Setting::Number(0.0); MAX_OPTIONS];
        values.iter_mut().zip(*options).for_each(|(value, option)| *value = option.default);
        Choice { kind, values }
    }

    /// Returns the choice with this name and default options.
    pub fn named(name: &str) -> Option<Choice<K>> {
        K::ALL.iter().copied().find(|kind| kind.entry().name == name).map(Choice::new)
    }

    /// Returns the name.
    pub fn name(&self) -> &'static str {
        self.kind.entry().name
    }

    /// Returns the options that exist for the current values, with their values.
    fn active(&self) -> impl Iterator<Item = (&'static MethodOption, Setting)> {
        let all = move || self.kind.entry().options.iter().zip(self.values);
        let has = move |name: &str, word: &'static str| {
            all().any(|(option, value)| option.name == name && value == Setting::Word(word))
        };
        all().filter(move |(option, _)| option.only_with.is_none_or(|(name, word)| has(name, word)))
    }

    /// Returns the value of an option, if the option exists.
    fn find(&self, name: &str) -> Option<Setting> {
        self.active().find(|(option, _)| option.name == name).map(|(_, value)| value)
    }

    /// Returns the value of a numeric option, if the option exists.
    pub fn get(&self, name: &str) -> Option<f64> {
        match self.find(name)? {
            Setting::Number(value) => Some(value),
            Setting::Word(_) => None,
        }
    }

    /// Returns the value of a numeric option that must exist.
    ///
    /// # Panics
    /// Panics if there is no such option.
    pub fn value(&self, name: &str) -> f64 {
        self.get(name).unwrap_or_else(|| panic!("{} has no option {name}", self.name()))
    }

    /// Returns whether an option that must exist has this word as its value.
    ///
    /// # Panics
    /// Panics if there is no such option.
    pub fn has_word(&self, name: &str, word: &str) -> bool {
        let value = self.find(name).expect("an option of the kind");
        matches!(value, Setting::Word(own) if own == word)
    }

    /// Returns a copy with this option set, or `None` if the option does not apply or has no such word.
    /// Numbers are checked by [`Choice::fault`].
    pub fn try_with(mut self, name: &str, value: Setting) -> Option<Choice<K>> {
        self.find(name)?;
        let options = self.kind.entry().options;
        let at = options.iter().position(|option| option.name == name && option.accepts(value))?;
        self.values[at] = value;
        Some(self)
    }

    /// Returns a copy with a numeric option set.
    ///
    /// # Panics
    /// Panics if there is no such option.
    #[must_use]
    pub fn with(self, name: &str, value: f64) -> Choice<K> {
        let choice = self.try_with(name, Setting::Number(value));
        choice.unwrap_or_else(|| panic!("{} has no option {name}", self.name()))
    }

    /// Returns a copy with an option set to one of its words.
    ///
    /// # Panics
    /// Panics if there is no such option, or if the option has no such word.
    #[must_use]
    pub fn with_word(self, name: &str, word: &'static str) -> Choice<K> {
        let choice = self.try_with(name, Setting::Word(word));
        choice.unwrap_or_else(|| panic!("{} has no option {name} {word}", self.name()))
    }

    /// Returns the first option whose value is not allowed, with that value and a message saying what is
    /// allowed.
    pub fn fault(&self) -> Option<(&'static MethodOption, f64, &'static str)> {
        self.active().find_map(|(option, value)| match (&option.domain, value) {
            // Negative zero would give another key.
            (Domain::Number { check, why, .. }, Setting::Number(value))
                if !check(value) || value == 0.0 && value.is_sign_negative() =>
            {
                Some((option, value, *why))
            }
            _ => None,
        })
    }

    /// Returns the form in manifests.
    pub fn params(&self) -> Map<String, Value> {
        let name = std::iter::once(("name".to_owned(), self.name().into()));
        let options = self.active().map(|(option, value)| (option.name.to_owned(), value.into()));
        name.chain(options).collect()
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
        // Read the options in order, because the existence of one may depend on an earlier one.
        for option in choice.kind.entry().options {
            if choice.find(option.name).is_none() {
                continue;
            }
            let value = params.get(option.name).ok_or_else(|| D::Error::missing_field(option.name))?;
            let value = option.read(value).map_err(D::Error::custom)?;
            choice = choice.try_with(option.name, value).expect("the option accepts what it has read");
        }
        Ok(choice)
    }
}

/// Returns every option of a kind once, with the names of the entries that have it.
pub fn options<K: Kind>() -> Vec<(&'static MethodOption, Vec<&'static str>)> {
    let mut all: Vec<(&MethodOption, Vec<&str>)> = vec![];
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
            let text = serde_json::to_string(&choice).expect("JSON");
            assert_eq!(serde_json::from_str::<Choice<K>>(&text).expect("a choice"), choice);
        }
        for (option, names) in options::<K>() {
            for name in names {
                // An option that several entries share has one meaning and one flag.
                let own = Choice::<K>::named(name).expect("it is listed").kind.entry().options;
                let own = own.iter().find(|other| other.name == option.name).expect("it has it");
                let said = |option: &MethodOption| match option.domain {
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
    fn entries_are_unique_and_their_defaults_are_allowed() {
        check::<MixKind>();
        check::<LossKind>();
        check::<RuleKind>();
    }

    #[test]
    fn incomplete_or_unknown_choices_are_refused() {
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
