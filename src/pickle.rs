//! Reads pickles without executing them: those of CIFAR's official files and of PyTorch's `torch.save`.
//!
//! A pickle is a program for a stack machine that may call any Python function. This machine calls nothing.
//! It knows the opcodes of protocol 2 that occur in these files, and leaves names to an implementation of
//! [`Object`], which recognises the few that its files consist of; every other opcode and name is refused.
//! Memory is bounded by the length of the pickle, by `MAX_VALUES` and by `MAX_DEPTH`.

use std::collections::HashMap;

/// Maximum number of values in a pickle; CIFAR-100's training set has about 200,000.
const MAX_VALUES: usize = 1 << 20;

/// Maximum nesting of containers, so that dropping a value cannot overflow the stack.
const MAX_DEPTH: usize = 32;

/// A value that borrows its text from the pickle.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a, O> {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// An integer of at most 64 bits.
    Int(i64),
    /// A string of Python 2.
    Bytes(&'a [u8]),
    /// A string.
    Text(&'a str),
    /// A list.
    List(Vec<Value<'a, O>>),
    /// A tuple.
    Tuple(Vec<Value<'a, O>>),
    /// A dictionary, in the order of the file.
    Dict(Vec<(Value<'a, O>, Value<'a, O>)>),
    /// One of the known objects.
    Object(O),
    /// A value whose content is never needed, such as a float, or another reference to a container.
    Unused,
}

impl<'a, O: PartialEq> Value<'a, O> {
    /// Returns the value of a key in a dictionary of Python 2.
    pub fn get(&self, key: &str) -> Option<&Value<'a, O>> {
        let Value::Dict(entries) = self else {
            return None;
        };
        entries.iter().find(|(k, _)| *k == Value::Bytes(key.as_bytes())).map(|(_, v)| v)
    }

    /// Returns the items of a list.
    pub fn items(&self) -> Option<&[Value<'a, O>]> {
        match self {
            Value::List(items) => Some(items),
            _ => None,
        }
    }

    /// Returns the value as a size or index.
    pub fn size(&self) -> Option<usize> {
        match self {
            Value::Int(n) => usize::try_from(*n).ok(),
            _ => None,
        }
    }
}

/// The Python objects that files of one kind consist of, each first as the name that the pickle refers to.
pub trait Object<'a>: Sized + Clone {
    /// Returns what a name stands for, or `None` if files of this kind do not refer to it.
    fn named(name: &str) -> Option<Self>;

    /// Returns an object outside the pickle from its persistent id.
    ///
    /// # Errors
    /// Returns an error if files of this kind have no such objects.
    fn outside(_id: &Value<'a, Self>) -> Result<Self, Fault> {
        Err(Fault::Refused("refers to an object outside the pickle"))
    }

    /// Returns what Python would return if it called the object.
    ///
    /// # Errors
    /// Returns an error if files of this kind do not call it, or not with such arguments.
    fn call(self, args: Vec<Value<'a, Self>>) -> Result<Value<'a, Self>, Fault>;

    /// Returns a value after its state was set.
    ///
    /// # Errors
    /// Returns an error if files of this kind do not set this state.
    fn build(value: Value<'a, Self>, state: Value<'a, Self>) -> Result<Value<'a, Self>, Fault>;
}

/// What is wrong with a pickle, wherever it is.
#[derive(Debug)]
pub enum Fault {
    /// It is not valid.
    Damaged(&'static str),
    /// It does something that files of this kind do not do.
    Refused(&'static str),
}

impl Fault {
    fn at(self, byte: usize) -> Error {
        match self {
            Fault::Damaged(what) => Error::Damaged(what, byte),
            Fault::Refused(what) => Error::Refused(what.into(), byte),
        }
    }
}

/// The reason why a pickle was not read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The pickle ends too early, or is not valid.
    #[error("damaged pickle at byte {1}: {0}")]
    Damaged(&'static str, usize),
    /// The pickle needs other Python objects, or parts of the format that files of this kind do not use.
    #[error("the pickle {0} at byte {1}, which is not supported; nothing was executed")]
    Refused(String, usize),
}

/// Reads the single value of a pickle.
///
/// # Errors
/// Returns an [`Error`] if the pickle is damaged or refused, or if bytes follow it. Nothing in the pickle can
/// run.
pub fn parse<'a, O: Object<'a>>(bytes: &'a [u8]) -> Result<Value<'a, O>, Error> {
    let mut machine = Machine { bytes, at: 0, stack: vec![], marks: vec![], memo: HashMap::new(), values: 0 };
    loop {
        if machine.marks.len() > MAX_VALUES {
            return Err(machine.refused("holds too many values"));
        }
        match machine.take(1)?[0] {
            // STOP
            b'.' => break,
            op => machine.step(op)?,
        }
    }
    let last = machine.stack.pop();
    match (last, machine.stack.is_empty() && machine.marks.is_empty() && machine.at == bytes.len()) {
        (Some(item), true) => Ok(item.value),
        _ => Err(machine.damaged("it does not consist of exactly one value")),
    }
}

/// A value on the stack, and how deeply containers are nested in it.
struct Item<'a, O> {
    value: Value<'a, O>,
    depth: usize,
}

struct Machine<'a, O> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Item<'a, O>>,
    marks: Vec<usize>,
    /// Values kept by BINPUT. A container is kept as [`Value::Unused`]: it is still being filled at that
    /// point, and a second reference to it adds nothing to the first.
    memo: HashMap<usize, Value<'a, O>>,
    /// Number of values that have been pushed.
    values: usize,
}

impl<'a, O: Object<'a>> Machine<'a, O> {
    fn damaged(&self, what: &'static str) -> Error {
        Error::Damaged(what, self.at)
    }

    fn refused(&self, what: impl Into<String>) -> Error {
        Error::Refused(what.into(), self.at)
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], Error> {
        let rest = &self.bytes[self.at..];
        let taken = rest.get(..n).ok_or_else(|| self.damaged("it ends too early"))?;
        self.at += n;
        Ok(taken)
    }

    /// Reads a little-endian unsigned number of `n` bytes, at most 8.
    fn number(&mut self, n: usize) -> Result<u64, Error> {
        let mut word = [0; 8];
        word[..n].copy_from_slice(self.take(n)?);
        Ok(u64::from_le_bytes(word))
    }

    fn size(&mut self, n: usize) -> Result<usize, Error> {
        let number = self.number(n)?;
        usize::try_from(number).map_err(|_| self.damaged("it ends too early"))
    }

    fn line(&mut self) -> Result<String, Error> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().take(256).position(|&b| b == b'\n');
        let end = end.ok_or_else(|| self.damaged("a line does not end"))?;
        self.at += end + 1;
        Ok(String::from_utf8_lossy(&rest[..end]).into_owned())
    }

    fn push(&mut self, value: Value<'a, O>) -> Result<(), Error> {
        self.push_deep(value, 0)
    }

    fn push_deep(&mut self, value: Value<'a, O>, depth: usize) -> Result<(), Error> {
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(self.refused("holds too many values"));
        }
        self.stack.push(Item { value, depth });
        Ok(())
    }

    fn pop(&mut self) -> Result<Item<'a, O>, Error> {
        // Values below a mark belong to the container that is still open.
        let floor = self.marks.last().copied().unwrap_or(0);
        let item = if self.stack.len() > floor { self.stack.pop() } else { None };
        item.ok_or_else(|| self.damaged("a value is missing"))
    }

    fn pop_n(&mut self, n: usize) -> Result<Vec<Item<'a, O>>, Error> {
        let mut items = (0..n).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        items.reverse();
        Ok(items)
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Item<'a, O>>, Error> {
        let mark = self.marks.pop().ok_or_else(|| self.damaged("a mark is missing"))?;
        Ok(self.stack.split_off(mark))
    }

    /// Returns the nesting depth of a container of these items.
    fn around(&self, items: &[Item<O>]) -> Result<usize, Error> {
        let depth = items.iter().map(|i| i.depth).max().unwrap_or(0) + 1;
        if depth > MAX_DEPTH { Err(self.refused("nests its containers too deeply")) } else { Ok(depth) }
    }

    fn tuple(&mut self, items: Vec<Item<'a, O>>) -> Result<(), Error> {
        let depth = self.around(&items)?;
        self.push_deep(Value::Tuple(items.into_iter().map(|i| i.value).collect()), depth)
    }

    /// Appends items to the list on top of the stack.
    fn append(&mut self, items: Vec<Item<'a, O>>) -> Result<(), Error> {
        let depth = self.around(&items)?;
        match self.stack.last_mut() {
            Some(Item { value: Value::List(list), depth: own }) => {
                *own = depth.max(*own);
                list.extend(items.into_iter().map(|i| i.value));
                Ok(())
            }
            _ => Err(self.damaged("it appends to something that is not a list")),
        }
    }

    /// Inserts alternating keys and values into the dictionary on top of the stack.
    fn set(&mut self, items: Vec<Item<'a, O>>) -> Result<(), Error> {
        let depth = self.around(&items)?;
        match self.stack.last_mut() {
            Some(Item { value: Value::Dict(dict), depth: own }) if items.len().is_multiple_of(2) => {
                *own = depth.max(*own);
                let mut items = items.into_iter().map(|i| i.value);
                while let (Some(key), Some(value)) = (items.next(), items.next()) {
                    dict.push((key, value));
                }
                Ok(())
            }
            _ => Err(self.damaged("it sets items of something that is not a dictionary")),
        }
    }

    fn put(&mut self, key: usize) -> Result<(), Error> {
        let kept = match self.stack.last().map(|i| &i.value) {
            Some(Value::List(_) | Value::Tuple(_) | Value::Dict(_)) => Value::Unused,
            Some(value) => value.clone(),
            None => return Err(self.damaged("a value is missing")),
        };
        self.memo.insert(key, kept);
        if self.memo.len() > MAX_VALUES {
            return Err(self.refused("holds too many objects".to_owned()));
        }
        Ok(())
    }

    fn get(&mut self, key: usize) -> Result<(), Error> {
        let kept = self.memo.get(&key).cloned();
        let kept = kept.ok_or_else(|| self.damaged("it refers to a value that was not stored"))?;
        self.push(kept)
    }

    /// Executes one opcode other than STOP. Opcodes have the names of Python's pickletools.
    fn step(&mut self, op: u8) -> Result<(), Error> {
        match op {
            // PROTO
            0x80 => match self.take(1)?[0] {
                2 => Ok(()),
                n => Err(self.refused(format!("has protocol {n}, not 2"))),
            },
            // MARK
            b'(' => {
                self.marks.push(self.stack.len());
                Ok(())
            }
            // BINPUT, LONG_BINPUT, BINGET, LONG_BINGET
            b'q' => self.size(1).and_then(|key| self.put(key)),
            b'r' => self.size(4).and_then(|key| self.put(key)),
            b'h' => self.size(1).and_then(|key| self.get(key)),
            b'j' => self.size(4).and_then(|key| self.get(key)),
            // GLOBAL
            b'c' => {
                let name = format!("{}.{}", self.line()?, self.line()?);
                match O::named(&name) {
                    Some(known) => self.push(Value::Object(known)),
                    None => Err(self.refused(format!("refers to the Python object {}", name.escape_debug()))),
                }
            }
            // BINPERSID: an object that is not in the pickle itself.
            b'Q' => {
                let id = self.pop()?.value;
                let found = O::outside(&id).map_err(|e| e.at(self.at))?;
                self.push(Value::Object(found))
            }
            // REDUCE: a call in Python.
            b'R' => {
                let args = self.pop()?.value;
                let called = self.pop()?.value;
                let (Value::Object(called), Value::Tuple(args)) = (called, args) else {
                    return Err(self.damaged("a call does not consist of a name and arguments"));
                };
                let made = called.call(args).map_err(|e| e.at(self.at))?;
                self.push(made)
            }
            // BUILD: sets the state of an object.
            b'b' => {
                let state = self.pop()?.value;
                let Item { value, depth } = self.pop()?;
                let built = O::build(value, state).map_err(|e| e.at(self.at))?;
                self.push_deep(built, depth)
            }
            op => self.value(op),
        }
    }

    /// Executes an opcode that makes or fills a plain value, or refuses it.
    fn value(&mut self, op: u8) -> Result<(), Error> {
        match op {
            // NONE, NEWTRUE, NEWFALSE, BINFLOAT
            b'N' => self.push(Value::None),
            0x88 => self.push(Value::Bool(true)),
            0x89 => self.push(Value::Bool(false)),
            b'G' => self.take(8).and_then(|_| self.push(Value::Unused)),
            // BININT1, BININT2, BININT, LONG1
            b'K' => self.number(1).and_then(|n| self.push(Value::Int(n as i64))),
            b'M' => self.number(2).and_then(|n| self.push(Value::Int(n as i64))),
            b'J' => self.number(4).and_then(|n| self.push(Value::Int((n as u32 as i32).into()))),
            0x8a => {
                let n = self.size(1)?;
                let bytes = self.take(n)?;
                self.push(long(bytes))
            }
            // SHORT_BINSTRING, BINSTRING: strings of Python 2.
            b'U' => self.size(1).and_then(|n| self.take(n)).and_then(|s| self.push(Value::Bytes(s))),
            b'T' => self.size(4).and_then(|n| self.take(n)).and_then(|s| self.push(Value::Bytes(s))),
            // BINUNICODE
            b'X' => {
                let n = self.size(4)?;
                let text = std::str::from_utf8(self.take(n)?);
                let text = text.map_err(|_| self.damaged("a string is not UTF-8"))?;
                self.push(Value::Text(text))
            }
            // EMPTY_LIST, EMPTY_DICT, EMPTY_TUPLE, TUPLE1, TUPLE2, TUPLE3, TUPLE
            b']' => self.push_deep(Value::List(vec![]), 1),
            b'}' => self.push_deep(Value::Dict(vec![]), 1),
            b')' => self.tuple(vec![]),
            0x85 => self.pop_n(1).and_then(|items| self.tuple(items)),
            0x86 => self.pop_n(2).and_then(|items| self.tuple(items)),
            0x87 => self.pop_n(3).and_then(|items| self.tuple(items)),
            b't' => self.pop_to_mark().and_then(|items| self.tuple(items)),
            // APPEND, APPENDS, SETITEM, SETITEMS
            b'a' => self.pop_n(1).and_then(|items| self.append(items)),
            b'e' => self.pop_to_mark().and_then(|items| self.append(items)),
            b's' => self.pop_n(2).and_then(|items| self.set(items)),
            b'u' => self.pop_to_mark().and_then(|items| self.set(items)),
            op => Err(self.refused(format!("uses opcode {op:#04x}"))),
        }
    }
}

/// Decodes an integer of any length, in little-endian two's complement.
fn long<'a, O>(bytes: &[u8]) -> Value<'a, O> {
    if bytes.len() > 8 {
        return Value::Unused;
    }
    let negative = bytes.last().is_some_and(|&b| b >= 0x80);
    let mut word = if negative { [0xff; 8] } else { [0; 8] };
    word[..bytes.len()].copy_from_slice(bytes);
    Value::Int(i64::from_le_bytes(word))
}

#[cfg(test)]
mod tests;
