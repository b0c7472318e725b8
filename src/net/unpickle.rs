//! Reads the pickle in a file of PyTorch's `torch.save` as dictionaries of tensor descriptions and plain
//! values.
//!
//! A pickle is a program for a stack machine that may call any Python function. This machine calls nothing:
//! it knows the opcodes of protocol 2, which `torch.save` writes, and the few names that dictionaries of
//! tensors consist of. Every other opcode and name is refused. The elements of the tensors are not in the
//! pickle but in other members of the zip file; here a tensor is the name of its storage with shape, strides
//! and offset, checked against the size that the storage claims. Memory is bounded by the length of the
//! pickle, by `MAX_VALUES` and by `MAX_DEPTH`.

use std::collections::HashMap;

use safetensors::tensor::Dtype;

/// Maximum number of values in a pickle; a ResNet-110 with its optimiser state has about 30,000.
const MAX_VALUES: usize = 1 << 18;

/// Maximum nesting of containers, so that dropping a value cannot overflow the stack.
const MAX_DEPTH: usize = 32;

/// Maximum number of dimensions of a tensor; a convolution has four.
const MAX_DIMENSIONS: usize = 8;

/// A value that borrows its text from the pickle.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// A value that cannot be a weight and whose content is not needed: `None`, a float, a set, ….
    Plain,
    /// An integer of at most 64 bits.
    Int(i64),
    /// A string.
    Text(&'a str),
    /// A list.
    List(Vec<Value<'a>>),
    /// A tuple.
    Tuple(Vec<Value<'a>>),
    /// A dictionary, in the order of the file.
    Dict(Vec<(Value<'a>, Value<'a>)>),
    /// A tensor or parameter.
    Tensor(Box<Tensor<'a>>),
    /// The storage of tensors, whose elements are in another member.
    Storage(Storage<'a>),
    /// One of the known names.
    Global(Global),
}

/// The elements of one or several tensors, identified by their member of the zip file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Storage<'a> {
    /// Element type.
    pub dtype: Dtype,
    /// Name under `data/`.
    pub key: &'a str,
    /// Number of elements that it claims to hold.
    pub len: usize,
}

/// A view of a storage. Every element lies within the length that the storage claims.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor<'a> {
    /// The storage of its elements.
    pub storage: Storage<'a>,
    /// Index of the first element.
    pub offset: usize,
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Distance between neighbouring elements along each dimension.
    pub strides: Vec<usize>,
}

/// The meaning of a known name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Global {
    /// `torch._utils._rebuild_tensor_v2`.
    RebuildTensor,
    /// `torch._utils._rebuild_parameter`.
    RebuildParameter,
    /// `collections.OrderedDict`.
    OrderedDict,
    /// The class of a storage, by element type.
    Storage(Dtype),
    /// A class whose objects hold no weights, such as `torch.Size`.
    Inert,
}

/// The reason why a pickle was not read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The pickle ends too early, or is not valid.
    #[error("damaged pickle: {0} at byte {1}")]
    Damaged(&'static str, usize),
    /// The pickle needs Python objects, or uses a part of the format that dictionaries of tensors do not use.
    #[error(
        "the pickle {0} at byte {1}; only dictionaries of tensors and plain values are read, and nothing is executed"
    )]
    Refused(String, usize),
}

impl Global {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "torch._utils._rebuild_tensor_v2" => Global::RebuildTensor,
            "torch._utils._rebuild_parameter" => Global::RebuildParameter,
            "collections.OrderedDict" => Global::OrderedDict,
            "torch.FloatStorage" => Global::Storage(Dtype::F32),
            "torch.HalfStorage" => Global::Storage(Dtype::F16),
            "torch.BFloat16Storage" => Global::Storage(Dtype::BF16),
            "torch.DoubleStorage" => Global::Storage(Dtype::F64),
            "torch.LongStorage" => Global::Storage(Dtype::I64),
            "torch.IntStorage" => Global::Storage(Dtype::I32),
            "torch.ShortStorage" => Global::Storage(Dtype::I16),
            "torch.CharStorage" => Global::Storage(Dtype::I8),
            "torch.ByteStorage" => Global::Storage(Dtype::U8),
            "torch.BoolStorage" => Global::Storage(Dtype::BOOL),
            // A learning rate scheduler keeps its milestones in a Counter.
            "torch.Size"
            | "torch.device"
            | "torch.float32"
            | "torch.float16"
            | "torch.bfloat16"
            | "torch.float64"
            | "collections.Counter"
            | "__builtin__.set"
            | "_codecs.encode" => Global::Inert,
            _ => return None,
        })
    }
}

/// Reads the single value of a pickle.
///
/// # Errors
/// Returns an [`Error`] if the pickle is damaged or refused, or if bytes follow it. Nothing in the pickle can
/// run.
pub fn parse(bytes: &[u8]) -> Result<Value<'_>, Error> {
    let mut machine = Machine { bytes, at: 0, stack: vec![], marks: vec![], memo: HashMap::new(), values: 0 };
    while !machine.step()? {}
    let last = machine.stack.pop();
    match (last, machine.stack.is_empty() && machine.marks.is_empty() && machine.at == bytes.len()) {
        (Some(item), true) => Ok(item.value),
        _ => Err(machine.damaged("there is more after its end")),
    }
}

/// A value on the stack, and how deeply containers are nested in it.
struct Item<'a> {
    value: Value<'a>,
    depth: usize,
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Item<'a>>,
    marks: Vec<usize>,
    /// Values kept by BINPUT. A container is kept as [`Value::Plain`]: it is still being filled at that
    /// point, and a second reference to it adds nothing to the first.
    memo: HashMap<usize, Value<'a>>,
    /// Number of values that have been pushed.
    values: usize,
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
        let end = end.ok_or_else(|| self.damaged("an unfinished line"))?;
        self.at += end + 1;
        Ok(String::from_utf8_lossy(&rest[..end]).into_owned())
    }

    fn push(&mut self, value: Value<'a>) -> Result<bool, Error> {
        self.push_deep(value, 0)
    }

    fn push_deep(&mut self, value: Value<'a>, depth: usize) -> Result<bool, Error> {
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(self.refused("holds too many values"));
        }
        self.stack.push(Item { value, depth });
        Ok(false)
    }

    fn pop(&mut self) -> Result<Item<'a>, Error> {
        // Values below a mark belong to the container that is still open.
        let floor = self.marks.last().copied().unwrap_or(0);
        let item = if self.stack.len() > floor { self.stack.pop() } else { None };
        item.ok_or_else(|| self.damaged("a value is missing"))
    }

    fn pop_n(&mut self, n: usize) -> Result<Vec<Item<'a>>, Error> {
        let mut items = (0..n).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        items.reverse();
        Ok(items)
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Item<'a>>, Error> {
        let mark = self.marks.pop().ok_or_else(|| self.damaged("a mark is missing"))?;
        Ok(self.stack.split_off(mark))
    }

    /// Returns the nesting depth of a container of these items.
    fn around(&self, items: &[Item]) -> Result<usize, Error> {
        let depth = items.iter().map(|i| i.depth).max().unwrap_or(0) + 1;
        if depth > MAX_DEPTH { Err(self.refused("nests its containers too deep")) } else { Ok(depth) }
    }

    fn tuple(&mut self, items: Vec<Item<'a>>) -> Result<bool, Error> {
        let depth = self.around(&items)?;
        self.push_deep(Value::Tuple(items.into_iter().map(|i| i.value).collect()), depth)
    }

    /// Appends items to the list on top of the stack.
    fn append(&mut self, items: Vec<Item<'a>>) -> Result<bool, Error> {
        let depth = self.around(&items)?;
        match self.stack.last_mut() {
            Some(Item { value: Value::List(list), depth: own }) => {
                *own = depth.max(*own);
                list.extend(items.into_iter().map(|i| i.value));
                Ok(false)
            }
            _ => Err(self.damaged("appends to no list")),
        }
    }

    /// Inserts alternating keys and values into the dictionary on top of the stack.
    fn set(&mut self, items: Vec<Item<'a>>) -> Result<bool, Error> {
        let depth = self.around(&items)?;
        match self.stack.last_mut() {
            Some(Item { value: Value::Dict(dict), depth: own }) if items.len().is_multiple_of(2) => {
                *own = depth.max(*own);
                let mut items = items.into_iter().map(|i| i.value);
                while let (Some(key), Some(value)) = (items.next(), items.next()) {
                    dict.push((key, value));
                }
                Ok(false)
            }
            _ => Err(self.damaged("sets items of no dictionary")),
        }
    }

    fn put(&mut self, key: usize) -> Result<bool, Error> {
        let kept = match self.stack.last().map(|i| &i.value) {
            Some(Value::List(_) | Value::Tuple(_) | Value::Dict(_)) => Value::Plain,
            Some(value) => value.clone(),
            None => return Err(self.damaged("a value is missing")),
        };
        self.memo.insert(key, kept);
        if self.memo.len() > MAX_VALUES {
            return Err(self.refused("holds too many objects".to_owned()));
        }
        Ok(false)
    }

    fn get(&mut self, key: usize) -> Result<bool, Error> {
        let kept = self.memo.get(&key).cloned();
        let kept = kept.ok_or_else(|| self.damaged("refers to a value that was not stored"))?;
        self.push(kept)
    }

    /// Executes one opcode; returns true at the end. Opcodes have the names of Python's pickletools.
    fn step(&mut self) -> Result<bool, Error> {
        if self.marks.len() > MAX_VALUES {
            return Err(self.refused("holds too many values"));
        }
        match self.take(1)?[0] {
            // PROTO
            0x80 => match self.take(1)?[0] {
                2 => Ok(false),
                n => Err(self.refused(format!("has protocol {n}, not 2"))),
            },
            // STOP
            b'.' => Ok(true),
            // MARK
            b'(' => {
                self.marks.push(self.stack.len());
                Ok(false)
            }
            // BINPUT, LONG_BINPUT, BINGET, LONG_BINGET
            b'q' => self.size(1).and_then(|key| self.put(key)),
            b'r' => self.size(4).and_then(|key| self.put(key)),
            b'h' => self.size(1).and_then(|key| self.get(key)),
            b'j' => self.size(4).and_then(|key| self.get(key)),
            // NONE, NEWTRUE, NEWFALSE, BINFLOAT
            b'N' | 0x88 | 0x89 => self.push(Value::Plain),
            b'G' => self.take(8).and_then(|_| self.push(Value::Plain)),
            // BININT1, BININT2, BININT, LONG1
            b'K' => self.number(1).and_then(|n| self.push(Value::Int(n as i64))),
            b'M' => self.number(2).and_then(|n| self.push(Value::Int(n as i64))),
            b'J' => self.number(4).and_then(|n| self.push(Value::Int((n as u32 as i32).into()))),
            0x8a => {
                let n = self.size(1)?;
                let bytes = self.take(n)?;
                self.push(long(bytes))
            }
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
            // GLOBAL
            b'c' => {
                let name = format!("{}.{}", self.line()?, self.line()?);
                match Global::named(&name) {
                    Some(known) => self.push(Value::Global(known)),
                    None => Err(self.refused(format!("refers to the Python object {}", name.escape_debug()))),
                }
            }
            // BINPERSID: an object that is not in the pickle itself.
            b'Q' => {
                let id = self.pop()?.value;
                let storage = self.storage(&id)?;
                self.push(Value::Storage(storage))
            }
            // REDUCE: a call in Python.
            b'R' => {
                let args = self.pop()?.value;
                let called = self.pop()?.value;
                let made = self.made(&called, args)?;
                self.push(made)
            }
            // BUILD: sets the attributes of an object. Those of a state dictionary are the versions of its
            // modules.
            b'b' => {
                self.pop()?;
                match self.stack.last().map(|i| &i.value) {
                    Some(Value::Dict(_)) => Ok(false),
                    _ => Err(self.refused("sets attributes of something that is no dictionary")),
                }
            }
            op => Err(self.refused(format!("uses opcode {op:#04x}"))),
        }
    }

    /// Returns a storage from its persistent id: the word "storage", class, name, location, length.
    fn storage(&self, id: &Value<'a>) -> Result<Storage<'a>, Error> {
        match id {
            Value::Tuple(id) => match &id[..] {
                &[
                    Value::Text("storage"),
                    Value::Global(Global::Storage(dtype)),
                    Value::Text(key),
                    Value::Text(_),
                    Value::Int(len),
                ] => {
                    let len =
                        usize::try_from(len).map_err(|_| self.damaged("a storage's length is negative"))?;
                    Ok(Storage { dtype, key, len })
                }
                _ => Err(self.damaged("a storage is described wrongly")),
            },
            _ => Err(self.damaged("a storage is described wrongly")),
        }
    }

    /// Returns the result of calling one of the known names.
    fn made(&self, called: &Value<'a>, args: Value<'a>) -> Result<Value<'a>, Error> {
        let (Value::Global(called), Value::Tuple(mut args)) = (called, args) else {
            return Err(self.damaged("a call is not of a name with arguments"));
        };
        match called {
            Global::OrderedDict if args.is_empty() => Ok(Value::Dict(vec![])),
            Global::RebuildTensor => self.tensor(&args).map(|t| Value::Tensor(Box::new(t))),
            Global::RebuildParameter if matches!(args.first(), Some(Value::Tensor(_))) => {
                Ok(args.swap_remove(0))
            }
            Global::Inert => Ok(Value::Plain),
            _ => Err(self.refused("calls something that is no dictionary and no tensor")),
        }
    }

    /// Returns a tensor from its storage, offset, shape, strides, whether it needs gradients, hooks, and the
    /// optional bits of a view.
    fn tensor(&self, args: &[Value<'a>]) -> Result<Tensor<'a>, Error> {
        let (
            Some([Value::Storage(storage), Value::Int(offset), Value::Tuple(shape), Value::Tuple(strides)]),
            6..=7,
        ) = (args.get(..4), args.len())
        else {
            return Err(self.damaged("a tensor is described wrongly"));
        };
        match args.get(6) {
            None | Some(Value::Plain) => {}
            Some(Value::Dict(bits)) if bits.is_empty() => {}
            Some(_) => return Err(self.refused("holds a tensor that is a negated or conjugated view")),
        }
        let number = |v: &Value| match v {
            Value::Int(n) => usize::try_from(*n).ok(),
            _ => None,
        };
        let numbers = |all: &[Value]| all.iter().map(number).collect::<Option<Vec<usize>>>();
        let (offset, shape, strides) = (usize::try_from(*offset).ok(), numbers(shape), numbers(strides));
        let (Some(offset), Some(shape), Some(strides)) = (offset, shape, strides) else {
            return Err(self.damaged("a tensor's shape, strides or offset is no size"));
        };
        if shape.len() != strides.len() || shape.len() > MAX_DIMENSIONS {
            return Err(self.damaged("a tensor's shape and strides disagree"));
        }
        let tensor = Tensor { storage: *storage, offset, shape, strides };
        match tensor.end() {
            Some(end) if end <= storage.len => Ok(tensor),
            _ => Err(self.damaged("a tensor is larger than its storage")),
        }
    }
}

impl Tensor<'_> {
    /// Returns the number of elements. The shape has been checked not to overflow a `usize`.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Returns the index after the last element, or `None` if it or the number of elements overflows.
    fn end(&self) -> Option<usize> {
        self.shape.iter().try_fold(1usize, |size, &n| size.checked_mul(n.max(1)))?;
        if self.shape.contains(&0) {
            return Some(self.offset);
        }
        let steps = self.shape.iter().zip(&self.strides);
        let last = steps
            .map(|(&n, &stride)| (n - 1).checked_mul(stride))
            .try_fold(self.offset, |at, step| at.checked_add(step?))?;
        last.checked_add(1)
    }
}

/// Decodes an integer of any length, in little-endian two's complement.
fn long(bytes: &[u8]) -> Value<'static> {
    if bytes.len() > 8 {
        return Value::Plain;
    }
    let negative = bytes.last().is_some_and(|&b| b >= 0x80);
    let mut word = if negative { [0xff; 8] } else { [0; 8] };
    word[..bytes.len()].copy_from_slice(bytes);
    Value::Int(i64::from_le_bytes(word))
}
