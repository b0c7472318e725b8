use super::*;

/// No object is known.
#[derive(Clone, Debug, PartialEq)]
enum Nothing {}

impl<'a> Object<'a> for Nothing {
    fn named(_: &str) -> Option<Self> {
        None
    }

    fn call(self, _: Vec<Value<'a, Self>>) -> Result<Value<'a, Self>, Fault> {
        match self {}
    }

    fn build(_: Value<'a, Self>, _: Value<'a, Self>) -> Result<Value<'a, Self>, Fault> {
        Err(Fault::Refused("builds something"))
    }
}

fn read(bytes: &[u8]) -> Result<Value<'_, Nothing>, Error> {
    parse(bytes)
}

#[test]
fn plain_values_are_read() {
    let value = read(b"\x80\x02}q\x01(U\x01aq\x02](K\x01M\x00\x01J\xff\xff\xff\xffNeU\x01bK\x02\x85u.")
        .expect("parsed");
    let ints = [Value::Int(1), Value::Int(256), Value::Int(-1), Value::None];
    assert_eq!(value.get("a").and_then(Value::items), Some(&ints[..]));
    assert_eq!(value.get("b"), Some(&Value::Tuple(vec![Value::Int(2)])));
    assert_eq!(value.get("c"), None);
    let long = read(b"(\x8a\x02\x00\xff\x8a\x09123456789\x88\x89X\x01\0\0\0xG12345678t.").expect("parsed");
    let items = [
        Value::Int(-256),
        Value::Unused,
        Value::Bool(true),
        Value::Bool(false),
        Value::Text("x"),
        Value::Unused,
    ];
    assert_eq!(long, Value::Tuple(items.to_vec()));
}

#[test]
fn memoised_containers_are_not_copied() {
    let value = read(b"](K\x05q\x00h\x00]q\x01h\x01e.").expect("parsed");
    let items = [Value::Int(5), Value::Int(5), Value::List(vec![]), Value::Unused];
    assert_eq!(value.items(), Some(&items[..]));
    // Each line contains the one before it twice: 2^100 values if references were copied.
    let mut doubling = b"]q\0".to_vec();
    for n in 0..100u8 {
        doubling.extend([b'h', n, b'h', n, 0x86, b'q', n + 1]);
    }
    assert!(read(&doubling).is_err(), "more than one value is left");
}

#[test]
fn code_is_refused() {
    let refused = |bytes: &[u8]| match read(bytes) {
        Err(e @ Error::Refused(..)) => e.to_string(),
        other => panic!("{other:?}"),
    };
    assert!(refused(b"cos\nsystem\n(U\x02idtR.").contains("refers to the Python object os.system"));
    assert!(refused(b"c__builtin__\ngetattr\n.").contains("__builtin__.getattr"));
    assert!(refused(b"(ios\nsystem\n.").contains("opcode 0x69"));
    assert!(refused(b"K\x01K\x02\x85b.").contains("builds something"));
    assert!(refused(b"NQ.").contains("outside the pickle"));
    assert!(refused(b"\x80\x04N.").contains("protocol 4"));
    assert!(refused(b"\x8c\x02os\x8c\x06system\x93.").contains("opcode 0x8c"));
}

#[test]
fn huge_and_deep_pickles_are_refused() {
    let refused = |bytes: &[u8]| match read(bytes) {
        Err(e @ Error::Refused(..)) => e.to_string(),
        other => panic!("{other:?}"),
    };
    let deep: Vec<u8> = std::iter::once(b'N').chain(std::iter::repeat_n(0x85, 1 << 20)).collect();
    assert!(refused(&deep).contains("too deep"));
    assert!(refused(&[&b"]".repeat(100)[..], &b"a".repeat(99), b"."].concat()).contains("too deep"));
    assert!(refused(&b"N".repeat(MAX_VALUES + 2)).contains("too many values"));
    assert!(refused(&b"(".repeat(MAX_VALUES + 2)).contains("too many values"));
    assert!(matches!(read(b"T\xff\xff\xff\xffab"), Err(Error::Damaged(..))));
    assert!(matches!(read(b"X\xff\xff\xff\xffab"), Err(Error::Damaged(..))));
}

#[test]
fn damage_anywhere_is_an_error() {
    let good = b"\x80\x02}(U\x01a](K\x01eu.";
    assert!(read(good).is_ok());
    for n in 0..good.len() {
        assert!(read(&good[..n]).is_err(), "cut at {n}");
    }
    for bad in [
        &b"."[..],
        b"NN.",
        b"N.N",
        b"(N.",
        b"N(K\x01e.",
        b"}(K\x01u.",
        b"]K\x01K\x02u.",
        b"K\x01e.",
        b"]K\x01(\x85.",
        b"h\x01.",
        b"q\x01.",
        b"NNR.",
    ] {
        assert!(matches!(read(bad), Err(Error::Damaged(..))), "{bad:?}");
    }
}

proptest::proptest! {
    #[test]
    fn no_input_causes_a_panic(bytes in proptest::collection::vec(
        proptest::sample::select(&b"\x80\x02.(qrhjNK\x01MJUXG\x8a]}\x85\x86\x87taeuscRQb\x89\n"[..]), 0..40)
    ) {
        let _ = read(&bytes);
    }
}
