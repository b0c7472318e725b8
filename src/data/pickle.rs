//! Reads the few pickle opcodes of the official CIFAR files as plain values.
//!
//! A pickle is a program for a stack machine that may call any Python function. This machine knows only the
//! opcodes that occur in the official files (protocol 2, written by Python 2 and numpy 1). It calls nothing:
//! the only object that they "construct", a numpy array of bytes, is recognised by its three names and
//! becomes a [`Value::Array`]; every other name and every other opcode is refused. Memory is bounded by the
//! length of the file and by `MAX_VALUES`, nesting by `MAX_CONTAINERS`. This is not a general pickle reader
//! and is not meant to become one.

/// Maximum number of objects in a file; CIFAR-100's training set has about 200,000.
const MAX_VALUES: usize = 1 << 20;

/// Maximum number of lists, tuples and dictionaries in a file; the official ones have at most nine. It bounds
/// nesting, so that dropping a value cannot overflow the stack.
const MAX_CONTAINERS: usize = 64;

/// The constructors of a pickled numpy array, never called.
const RECONSTRUCT: &str = "numpy.core.multiarray._reconstruct";
const NDARRAY: &str = "numpy.ndarray";
const DTYPE: &str = "numpy.dtype";

/// A plain value that borrows its bytes from the file.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// An integer of at most 32 bits.
    Int(i64),
    /// A Python 2 string.
    Bytes(&'a [u8]),
    /// A list.
    List(Vec<Value<'a>>),
    /// A tuple.
    Tuple(Vec<Value<'a>>),
    /// A dictionary, in the order of the file.
    Dict(Vec<(Value<'a>, Value<'a>)>),
    /// A numpy array of unsigned bytes in C order.
    Array {
        /// Its dimensions; their product is the number of bytes.
        shape: Vec<usize>,
        /// Its elements.
        data: &'a [u8],
    },
    /// One of the allowed names, not (yet) used; never part of a finished array.
    Global(&'static str),
    /// `numpy.dtype('u1')`.
    DtypeU8,
    /// An array without shape and content, before its state is set.
    Unbuilt,
}

impl<'a> Value<'a> {
    /// Returns the value of a key in a dictionary.
    pub fn get(&self, key: &str) -> Option<&Value<'a>> {
        let Value::Dict(entries) = self else {
            return None;
        };
        entries.iter().find(|(k, _)| *k == Value::Bytes(key.as_bytes())).map(|(_, v)| v)
    }

    /// Returns the items of a list.
    pub fn items(&self) -> Option<&[Value<'a>]> {
        match self {
            Value::List(items) => Some(items),
            _ => None,
        }
    }
}

/// The reason why a pickle was not read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The pickle ends too early, or is not valid.
    #[error("damaged pickle: {0} at byte {1}")]
    Damaged(&'static str, usize),
    /// The pickle could run code, or uses a part of the format that the official files do not use.
    #[error("the pickle {0} at byte {1}, which the official files never do; nothing was executed")]
    Refused(String, usize),
}

/// Reads the single value of a pickle.
///
/// # Errors
/// Returns an [`Error`] if the pickle is damaged or refused, or if bytes follow it. Nothing in the file can
/// run.
pub fn parse(bytes: &[u8]) -> Result<Value<'_>, Error> {
    let mut machine = Machine { bytes, at: 0, stack: vec![], marks: vec![], containers: 0 };
    while !machine.step()? {}
    match (machine.stack.pop(), machine.stack.is_empty() && machine.at == bytes.len()) {
        (Some(value), true) => Ok(value),
        _ => Err(machine.damaged("there is more after its end")),
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value<'a>>,
    marks: Vec<usize>,
    containers: usize,
}

impl<'a> Machine<'a> {
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

    /// Reads a little-endian unsigned number of `n` bytes.
    fn number(&mut self, n: usize) -> Result<usize, Error> {
        let mut word = [0; 8];
        word[..n].copy_from_slice(self.take(n)?);
        Ok(u64::from_le_bytes(word) as usize)
    }

    fn line(&mut self) -> Result<String, Error> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().take(256).position(|&b| b == b'\n');
        let end = end.ok_or_else(|| self.damaged("an unfinished line"))?;
        self.at += end + 1;
        Ok(String::from_utf8_lossy(&rest[..end]).into_owned())
    }

    fn push(&mut self, value: Value<'a>) -> Result<bool, Error> {
        self.stack.push(value);
        Ok(false)
    }

    fn pop(&mut self) -> Result<Value<'a>, Error> {
        // Values below a mark belong to the container that is still open.
        let floor = self.marks.last().copied().unwrap_or(0);
        let value = if self.stack.len() > floor { self.stack.pop() } else { None };
        value.ok_or_else(|| self.damaged("a value is missing"))
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value<'a>>, Error> {
        let mark = self.marks.pop().ok_or_else(|| self.damaged("a mark is missing"))?;
        Ok(self.stack.split_off(mark))
    }

    fn tuple(&mut self, n: usize) -> Result<bool, Error> {
        let mut items = (0..n).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        items.reverse();
        self.push(Value::Tuple(items))
    }

    /// Executes one opcode; returns true at the end. Opcodes have the names of Python's pickletools.
    fn step(&mut self) -> Result<bool, Error> {
        let op = self.take(1)?[0];
        let container = matches!(op, b'}' | b']' | b't' | 0x85..=0x87);
        self.containers += usize::from(container);
        if self.containers > MAX_CONTAINERS || self.stack.len() + self.marks.len() > MAX_VALUES {
            return Err(self.refused("holds too many objects"));
        }
        match op {
            // PROTO
            0x80 => match self.take(1)?[0] {
                2 => Ok(false),
                n => Err(self.refused(format!("has protocol {n}"))),
            },
            // STOP
            b'.' => Ok(true),
            // MARK
            b'(' => {
                self.marks.push(self.stack.len());
                Ok(false)
            }
            // BINPUT, LONG_BINPUT: the memo is never read in these files.
            b'q' => self.take(1).map(|_| false),
            b'r' => self.take(4).map(|_| false),
            // NONE, NEWTRUE, NEWFALSE, BININT1, BININT2, BININT
            b'N' => self.push(Value::None),
            0x88 => self.push(Value::Bool(true)),
            0x89 => self.push(Value::Bool(false)),
            b'K' => self.number(1).and_then(|n| self.push(Value::Int(n as i64))),
            b'M' => self.number(2).and_then(|n| self.push(Value::Int(n as i64))),
            b'J' => self.number(4).and_then(|n| self.push(Value::Int((n as u32 as i32).into()))),
            // SHORT_BINSTRING, BINSTRING
            b'U' => self.number(1).and_then(|n| self.take(n)).and_then(|s| self.push(Value::Bytes(s))),
            b'T' => self.number(4).and_then(|n| self.take(n)).and_then(|s| self.push(Value::Bytes(s))),
            // EMPTY_LIST, EMPTY_DICT, TUPLE1, TUPLE2, TUPLE3, TUPLE
            b']' => self.push(Value::List(vec![])),
            b'}' => self.push(Value::Dict(vec![])),
            0x85 => self.tuple(1),
            0x86 => self.tuple(2),
            0x87 => self.tuple(3),
            b't' => self.pop_to_mark().and_then(|items| self.push(Value::Tuple(items))),
            // APPENDS, SETITEMS
            b'e' => {
                let items = self.pop_to_mark()?;
                match self.stack.last_mut() {
                    Some(Value::List(list)) if list.len() + items.len() <= MAX_VALUES => list.extend(items),
                    _ => return Err(self.damaged("appends to no list")),
                }
                Ok(false)
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                match self.stack.last_mut() {
                    Some(Value::Dict(dict))
                        if items.len() % 2 == 0 && dict.len() + items.len() <= MAX_VALUES =>
                    {
                        let mut items = items.into_iter();
                        while let (Some(key), Some(value)) = (items.next(), items.next()) {
                            dict.push((key, value));
                        }
                    }
                    _ => return Err(self.damaged("sets items of no dictionary")),
                }
                Ok(false)
            }
            // GLOBAL
            b'c' => {
                let name = format!("{}.{}", self.line()?, self.line()?);
                match [RECONSTRUCT, NDARRAY, DTYPE].into_iter().find(|&known| known == name) {
                    Some(known) => self.push(Value::Global(known)),
                    None => {
                        Err(self.refused(format!("asks for {}, which could run code,", name.escape_debug())))
                    }
                }
            }
            // REDUCE: a call in Python. Only the two calls that make an empty array and its dtype are
            // recognised.
            b'R' => {
                let args = self.pop()?;
                let called = self.pop()?;
                match (&called, &args) {
                    (Value::Global(RECONSTRUCT), Value::Tuple(t))
                        if matches!(
                            &t[..],
                            [Value::Global(NDARRAY), Value::Tuple(_), Value::Bytes(b"b")]
                        ) =>
                    {
                        self.push(Value::Unbuilt)
                    }
                    (Value::Global(DTYPE), Value::Tuple(t)) if t.first() == Some(&Value::Bytes(b"u1")) => {
                        self.push(Value::DtypeU8)
                    }
                    _ => Err(self.refused("calls something that is no array of bytes")),
                }
            }
            // BUILD: sets the state of the array or of its dtype (whose byte order is irrelevant for bytes).
            b'b' => {
                let state = self.pop()?;
                let built = match (self.pop()?, state) {
                    (Value::DtypeU8, Value::Tuple(_)) => Value::DtypeU8,
                    (Value::Unbuilt, Value::Tuple(state)) => self.array(&state)?,
                    _ => return Err(self.refused("builds something that is no array of bytes")),
                };
                self.push(built)
            }
            op => Err(self.refused(format!("uses opcode {op:#04x}"))),
        }
    }

    /// Returns an array from numpy's state tuple: version, shape, dtype, Fortran order, bytes.
    fn array(&self, state: &[Value<'a>]) -> Result<Value<'a>, Error> {
        let [Value::Int(1), Value::Tuple(shape), Value::DtypeU8, Value::Bool(false), Value::Bytes(data)] =
            state
        else {
            return Err(self.refused("holds an array that is not of bytes in C order"));
        };
        let side = |v: &Value| match v {
            Value::Int(n) => usize::try_from(*n).ok(),
            _ => None,
        };
        let shape: Option<Vec<usize>> = shape.iter().map(side).collect();
        let size = |s: &Vec<usize>| s.iter().try_fold(1usize, |size, &n| size.checked_mul(n));
        match shape {
            Some(shape) if size(&shape) == Some(data.len()) => Ok(Value::Array { shape, data }),
            _ => Err(self.damaged("an array's shape and bytes disagree")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_values() {
        let value = parse(b"\x80\x02}q\x01(U\x01aq\x02](K\x01M\x00\x01J\xff\xff\xff\xffNeU\x01bK\x02\x85u.")
            .expect("parsed");
        let ints = [Value::Int(1), Value::Int(256), Value::Int(-1), Value::None];
        assert_eq!(value.get("a").and_then(Value::items), Some(&ints[..]));
        assert_eq!(value.get("b"), Some(&Value::Tuple(vec![Value::Int(2)])));
        assert_eq!(value.get("c"), None);
    }

    #[test]
    fn code_is_refused() {
        let refused = |bytes: &[u8]| match parse(bytes) {
            Err(e @ Error::Refused(..)) => e.to_string(),
            other => panic!("{other:?}"),
        };
        assert!(refused(b"cos\nsystem\n(U\x02idtR.").contains("asks for os.system"));
        assert!(refused(b"cnumpy\nsave\n.").contains("asks for numpy.save"));
        assert!(refused(b"cnumpy\ndtype\n(U\x02O8K\x00K\x01tR.").contains("calls something"));
        assert!(refused(b"cnumpy\nndarray\n)R.").contains("opcode 0x29"));
        assert!(refused(b"(ios\nsystem\n.").contains("opcode 0x69"));
        assert!(refused(b"K\x01K\x02\x85b.").contains("builds something"));
        assert!(refused(b"\x80\x04N.").contains("protocol 4"));
        assert!(refused(b"\x8c\x02os\x8c\x06system\x93.").contains("opcode 0x8c"));
    }

    #[test]
    fn harm_by_size_is_refused() {
        let deep: Vec<u8> = std::iter::once(b'N').chain(std::iter::repeat_n(0x85, 1 << 20)).collect();
        assert!(matches!(parse(&deep), Err(Error::Refused(..))));
        assert!(matches!(parse(&vec![b'N'; MAX_VALUES + 2]), Err(Error::Refused(..))));
        assert!(matches!(parse(&vec![b'('; MAX_VALUES + 2]), Err(Error::Refused(..))));
        assert!(matches!(parse(b"T\xff\xff\xff\xffab"), Err(Error::Damaged(..))));
    }

    #[test]
    fn damage_is_an_error_wherever_it_is() {
        let good = b"\x80\x02}(U\x01a](K\x01eu.";
        assert!(parse(good).is_ok());
        for n in 0..good.len() {
            assert!(parse(&good[..n]).is_err(), "cut at {n}");
        }
        for bad in [&b"."[..], b"NN.", b"N.N", b"N(K\x01e.", b"}(K\x01u.", b"K\x01e.", b"]K\x01(\x85."] {
            assert!(matches!(parse(bad), Err(Error::Damaged(..))), "{bad:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_input_makes_it_panic(bytes in proptest::collection::vec(
            proptest::sample::select(&b"\x80\x02.(qrNK\x01MJU]}\x85\x86\x87teucRb\x89\n"[..]), 0..40)
        ) {
            let _ = parse(&bytes);
        }
    }
}
