//! The Python objects in the pickle of an official file: an array of bytes of numpy 1.

use crate::pickle::{self, Fault};

/// Maximum number of dimensions of an array; the official ones have two. Every reference to an array copies its
/// shape, so that a small file could take much memory.
const MAX_DIMENSIONS: usize = 8;

/// A value in a pickle.
pub type Value<'a> = pickle::Value<'a, Object<'a>>;

/// An object, or the meaning of a known name.
#[derive(Clone, Debug, PartialEq)]
pub enum Object<'a> {
    /// A numpy array of unsigned bytes in C order.
    Array {
        /// Its dimensions; their product is the number of bytes.
        shape: Vec<usize>,
        /// Its elements.
        data: &'a [u8],
    },
    /// An array without shape and content, before its state is set.
    Unbuilt,
    /// `numpy.dtype('u1')`.
    Bytes,
    /// `numpy.core.multiarray._reconstruct`, which makes an array.
    Reconstruct,
    /// `numpy.ndarray`.
    Class,
    /// `numpy.dtype`.
    Dtype,
}

impl<'a> pickle::Object<'a> for Object<'a> {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "numpy.core.multiarray._reconstruct" => Object::Reconstruct,
            "numpy.ndarray" => Object::Class,
            "numpy.dtype" => Object::Dtype,
            _ => return None,
        })
    }

    fn call(self, args: Vec<Value<'a>>) -> Result<Value<'a>, Fault> {
        match (self, &args[..]) {
            (Object::Reconstruct, [Value::Object(Object::Class), Value::Tuple(_), Value::Bytes(b"b")]) => {
                Ok(Value::Object(Object::Unbuilt))
            }
            (Object::Dtype, [Value::Bytes(b"u1"), ..]) => Ok(Value::Object(Object::Bytes)),
            _ => Err(Fault::Refused("calls something other than the constructors of an array of bytes")),
        }
    }

    /// Sets the state of an array, or of its type, whose byte order is irrelevant.
    fn build(value: Value<'a>, state: Value<'a>) -> Result<Value<'a>, Fault> {
        let (Value::Object(object), Value::Tuple(state)) = (value, state) else {
            return Err(Fault::Refused("sets the state of something other than an array of bytes"));
        };
        match object {
            Object::Bytes => Ok(Value::Object(Object::Bytes)),
            Object::Unbuilt => array(&state).map(Value::Object),
            _ => Err(Fault::Refused("sets the state of something other than an array of bytes")),
        }
    }
}

/// Returns an array from its state: version, shape, type, whether it is in Fortran order, bytes.
fn array<'a>(state: &[Value<'a>]) -> Result<Object<'a>, Fault> {
    let [
        Value::Int(1),
        Value::Tuple(shape),
        Value::Object(Object::Bytes),
        Value::Bool(false),
        Value::Bytes(data),
    ] = state
    else {
        return Err(Fault::Refused("holds an array that is not of bytes in C order"));
    };
    if shape.len() > MAX_DIMENSIONS {
        return Err(Fault::Refused("holds an array of more than eight dimensions"));
    }
    let shape: Option<Vec<usize>> = shape.iter().map(Value::size).collect();
    let size = |s: &Vec<usize>| s.iter().try_fold(1usize, |size, &n| size.checked_mul(n));
    match shape {
        Some(shape) if size(&shape) == Some(data.len()) => Ok(Object::Array { shape, data }),
        _ => Err(Fault::Damaged("an array's shape and bytes disagree")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_arrays_of_bytes_are_accepted() {
        let refused = |bytes: &[u8]| match pickle::parse::<Object>(bytes) {
            Err(e @ pickle::Error::Refused(..)) => e.to_string(),
            other => panic!("{other:?}"),
        };
        assert!(refused(b"cnumpy\nsave\n.").contains("refers to the Python object numpy.save"));
        assert!(refused(b"cnumpy\ndtype\n(U\x02O8K\x00K\x01tR.").contains("calls something"));
        assert!(refused(b"cnumpy\nndarray\n)R.").contains("calls something"));
        assert!(refused(b"K\x01K\x02\x85b.").contains("sets the state of something"));
        let made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR";
        let dtype = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR";
        let state =
            |order: &[u8], data: &[u8]| [made, &b"(K\x01K\x02\x85"[..], dtype, order, data, b"tb."].concat();
        let array = state(b"\x89", b"U\x02ab");
        let shaped = Object::Array { shape: vec![2], data: b"ab" };
        assert_eq!(pickle::parse(&array), Ok(Value::Object(shaped)));
        assert!(refused(&state(b"\x88", b"U\x02ab")).contains("not of bytes in C order"));
        // Shape and bytes agree, but each reference to the array would copy a thousand dimensions.
        let deep = [made, &b"(K\x01("[..], &b"K\x01".repeat(1000), b"t", dtype, b"\x89U\x01atb."].concat();
        assert!(refused(&deep).contains("more than eight dimensions"));
        let short = state(b"\x89", b"U\x01a");
        assert!(matches!(pickle::parse::<Object>(&short), Err(pickle::Error::Damaged(..))));
    }
}
