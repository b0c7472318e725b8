//! The Python objects in the pickle of a file of PyTorch's `torch.save`: dictionaries of tensors. The
//! elements of the tensors are not in the pickle but in other members of the zip file; here a tensor is the
//! name of its storage with shape, strides and offset, checked against the size that the storage claims.

use safetensors::tensor::Dtype;

use crate::pickle::{self, Fault};

/// Maximum number of dimensions of a tensor; a convolution has four.
const MAX_DIMENSIONS: usize = 8;

/// A value in a pickle.
pub type Value<'a> = pickle::Value<'a, Object<'a>>;

/// An object, or the meaning of a known name.
#[derive(Clone, Debug, PartialEq)]
pub enum Object<'a> {
    /// A tensor or parameter.
    Tensor(Box<Tensor<'a>>),
    /// The storage of tensors, whose elements are in another member.
    Storage(Storage<'a>),
    /// `torch._utils._rebuild_tensor_v2`.
    RebuildTensor,
    /// `torch._utils._rebuild_parameter`.
    RebuildParameter,
    /// `collections.OrderedDict`.
    OrderedDict,
    /// The class of a storage, by element type.
    StorageClass(Dtype),
    /// A class whose objects hold no weights, such as `torch.Size`.
    Inert,
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

impl<'a> pickle::Object<'a> for Object<'a> {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "torch._utils._rebuild_tensor_v2" => Object::RebuildTensor,
            "torch._utils._rebuild_parameter" => Object::RebuildParameter,
            "collections.OrderedDict" => Object::OrderedDict,
            "torch.FloatStorage" => Object::StorageClass(Dtype::F32),
            "torch.HalfStorage" => Object::StorageClass(Dtype::F16),
            "torch.BFloat16Storage" => Object::StorageClass(Dtype::BF16),
            "torch.DoubleStorage" => Object::StorageClass(Dtype::F64),
            "torch.LongStorage" => Object::StorageClass(Dtype::I64),
            "torch.IntStorage" => Object::StorageClass(Dtype::I32),
            "torch.ShortStorage" => Object::StorageClass(Dtype::I16),
            "torch.CharStorage" => Object::StorageClass(Dtype::I8),
            "torch.ByteStorage" => Object::StorageClass(Dtype::U8),
            "torch.BoolStorage" => Object::StorageClass(Dtype::BOOL),
            // A learning rate scheduler keeps its milestones in a Counter.
            "torch.Size"
            | "torch.device"
            | "torch.float32"
            | "torch.float16"
            | "torch.bfloat16"
            | "torch.float64"
            | "collections.Counter"
            | "__builtin__.set"
            | "_codecs.encode" => Object::Inert,
            _ => return None,
        })
    }

    /// Returns a storage from its id: the word "storage", class, name, location, length.
    fn outside(id: &Value<'a>) -> Result<Self, Fault> {
        let Value::Tuple(id) = id else {
            return Err(Fault::Damaged("the description of a storage is invalid"));
        };
        match &id[..] {
            &[
                Value::Text("storage"),
                Value::Object(Object::StorageClass(dtype)),
                Value::Text(key),
                Value::Text(_),
                Value::Int(len),
            ] => {
                let len = usize::try_from(len);
                let len = len.map_err(|_| Fault::Damaged("a storage's length is negative"))?;
                Ok(Object::Storage(Storage { dtype, key, len }))
            }
            _ => Err(Fault::Damaged("the description of a storage is invalid")),
        }
    }

    fn call(self, mut args: Vec<Value<'a>>) -> Result<Value<'a>, Fault> {
        match self {
            Object::OrderedDict if args.is_empty() => Ok(Value::Dict(vec![])),
            Object::RebuildTensor => Ok(Value::Object(Object::Tensor(Box::new(tensor(&args)?)))),
            Object::RebuildParameter if matches!(args.first(), Some(Value::Object(Object::Tensor(_)))) => {
                Ok(args.swap_remove(0))
            }
            Object::Inert => Ok(Value::Unused),
            _ => {
                Err(Fault::Refused("calls something other than the constructors of dictionaries and tensors"))
            }
        }
    }

    /// The state of a dictionary of weights is the versions of its modules.
    fn build(value: Value<'a>, _: Value<'a>) -> Result<Value<'a>, Fault> {
        match value {
            Value::Dict(_) => Ok(value),
            _ => Err(Fault::Refused("sets attributes of something that is not a dictionary")),
        }
    }
}

/// Returns a tensor from its storage, offset, shape, strides, whether it needs gradients, hooks, and the
/// optional bits of a view.
fn tensor<'a>(args: &[Value<'a>]) -> Result<Tensor<'a>, Fault> {
    let (
        Some(
            [
                Value::Object(Object::Storage(storage)),
                Value::Int(offset),
                Value::Tuple(shape),
                Value::Tuple(strides),
            ],
        ),
        6..=7,
    ) = (args.get(..4), args.len())
    else {
        return Err(Fault::Damaged("the description of a tensor is invalid"));
    };
    match args.get(6) {
        None | Some(Value::None) => {}
        Some(Value::Dict(bits)) if bits.is_empty() => {}
        Some(_) => return Err(Fault::Refused("holds a tensor that is a negated or conjugated view")),
    }
    let numbers = |all: &[Value]| all.iter().map(Value::size).collect::<Option<Vec<usize>>>();
    let (offset, shape, strides) = (usize::try_from(*offset).ok(), numbers(shape), numbers(strides));
    let (Some(offset), Some(shape), Some(strides)) = (offset, shape, strides) else {
        return Err(Fault::Damaged("a tensor's shape, strides or offset is invalid"));
    };
    if shape.len() != strides.len() || shape.len() > MAX_DIMENSIONS {
        return Err(Fault::Damaged("a tensor's shape and strides disagree"));
    }
    let tensor = Tensor { storage: *storage, offset, shape, strides };
    match tensor.end() {
        Some(end) if end <= storage.len => Ok(tensor),
        _ => Err(Fault::Damaged("a tensor is larger than its storage")),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_dictionaries_and_tensors_are_accepted() {
        let refused = |bytes: &[u8]| match pickle::parse::<Object>(bytes) {
            Err(e @ pickle::Error::Refused(..)) => e.to_string(),
            other => panic!("{other:?}"),
        };
        assert!(
            refused(b"\x80\x02cos\nsystem\nX\x02\0\0\0id\x85R.")
                .contains("refers to the Python object os.system")
        );
        assert!(refused(b"cbuiltins\neval\n.").contains("builtins.eval"));
        assert!(refused(b"ctorch\nFloatStorage\n)R.").contains("calls something"));
        assert!(refused(b"K\x01}b.").contains("sets attributes"));
        assert!(matches!(pickle::parse::<Object>(b"NQ."), Err(pickle::Error::Damaged(..))));
    }
}
