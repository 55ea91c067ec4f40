use super::*;

fn small() -> GgufWriter {
    let mut writer = GgufWriter::new();
    writer
        .metadata("general.architecture", Value::String("llama".into()))
        .metadata("a.u8", Value::U8(200))
        .metadata("a.i64", Value::I64(-5))
        .metadata("a.f64", Value::F64(0.5))
        .metadata("a.bool", Value::Bool(true))
        .metadata("a.tokens", Value::Array(Array::String(vec!["<s>".into(), "é".into()])))
        .metadata("a.types", Value::Array(Array::I32(vec![3, -1])))
        .metadata("a.flags", Value::Array(Array::Bool(vec![true, false])));
    writer.tensor_f32("one", &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
    writer.tensor("two", GgmlType::Q8_0, &[1, 32], vec![7; 34]).unwrap();
    writer
}

#[test]
fn what_is_written_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    small().write(&path).unwrap();
    let gguf = Gguf::open(&path).unwrap();
    assert_eq!(gguf.version(), 3);
    let metadata = gguf.metadata();
    assert_eq!(metadata.str("general.architecture").unwrap(), Some("llama"));
    assert_eq!(metadata.u32("a.u8").unwrap(), Some(200));
    assert_eq!(metadata.get("a.i64"), Some(&Value::I64(-5)));
    assert_eq!(metadata.f32("a.f64").unwrap(), Some(0.5));
    assert_eq!(metadata.bool("a.bool").unwrap(), Some(true));
    assert_eq!(metadata.strings("a.tokens").unwrap().unwrap(), ["<s>", "é"]);
    assert_eq!(metadata.i32s("a.types").unwrap().unwrap(), [3, -1]);
    assert_eq!(metadata.get("a.flags"), Some(&Value::Array(Array::Bool(vec![true, false]))));
    assert_eq!(gguf.tensor("one").unwrap().shape, [2, 3]);
    let data = gguf.tensor_data("one").unwrap();
    assert_eq!(data[20..24], 6.0f32.to_le_bytes());
    assert_eq!(gguf.tensor("two").unwrap().ty, GgmlType::Q8_0);
    assert_eq!(gguf.tensor_data("two").unwrap(), [7; 34]);
    assert!(matches!(gguf.tensor_data("three"), Err(ModelError::MissingTensor { .. })));
}

#[test]
fn every_element_type_survives_the_trip() {
    let arrays = [
        Array::U8(vec![1, 255]),
        Array::I8(vec![-1]),
        Array::U16(vec![65535]),
        Array::I16(vec![-2]),
        Array::U32(vec![7]),
        Array::I32(vec![-7]),
        Array::F32(vec![1.5]),
        Array::Bool(vec![true]),
        Array::String(vec!["x".into(), String::new()]),
        Array::U64(vec![u64::MAX]),
        Array::I64(vec![i64::MIN]),
        Array::F64(vec![2.5]),
    ];
    for array in arrays {
        let element = array.get(0).unwrap();
        let mut writer = GgufWriter::new();
        writer.metadata("array", Value::Array(array.clone())).metadata("one", element.clone());
        let gguf = Gguf::from_bytes(writer.to_bytes()).unwrap();
        assert_eq!(gguf.metadata().get("array"), Some(&Value::Array(array)));
        assert_eq!(gguf.metadata().get("one"), Some(&element));
    }
}

#[test]
fn typed_access_names_key_and_types() {
    let gguf = Gguf::from_bytes(small().to_bytes()).unwrap();
    let metadata = gguf.metadata();
    assert_eq!(metadata.str("absent").unwrap(), None);
    let wrong = metadata.u32("general.architecture").unwrap_err().to_string();
    assert_eq!(wrong, "key `general.architecture` is string, expected u32");
    let negative = metadata.u64("a.i64").unwrap_err().to_string();
    assert_eq!(negative, "key `a.i64` is I64(-5), expected u64");
    let missing = metadata.required("absent", Metadata::u32).unwrap_err();
    assert_eq!(missing, MetadataError::Missing { key: "absent".into() });
    assert_eq!(metadata.required("general.architecture", Metadata::str).unwrap(), "llama");
}

/// Two parts of a split model beside each other, named as `gguf-split` does.
fn write_parts(dir: &Path, second_says: u16) {
    for part in 0..2u16 {
        let mut writer = GgufWriter::new();
        let says = if part == 1 { second_says } else { 0 };
        writer.metadata("split.no", Value::U16(says)).metadata("split.count", Value::U16(2));
        writer.tensor_f32(format!("t{part}"), &[1], &[f32::from(part)]).unwrap();
        writer.write(dir.join(format!("m-{:05}-of-00002.gguf", part + 1))).unwrap();
    }
}

#[test]
fn a_split_model_is_opened_from_any_part() {
    let dir = tempfile::tempdir().unwrap();
    write_parts(dir.path(), 1);
    for part in ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"] {
        let gguf = Gguf::open(dir.path().join(part)).unwrap();
        assert_eq!(gguf.tensors().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["t0", "t1"]);
        assert_eq!(gguf.tensor_data("t1").unwrap(), 1.0f32.to_le_bytes());
        assert_eq!(gguf.paths().count(), 2);
    }
    std::fs::remove_file(dir.path().join("m-00002-of-00002.gguf")).unwrap();
    let error = Gguf::open(dir.path().join("m-00001-of-00002.gguf")).unwrap_err();
    let ModelError::Gguf { source: GgufError::BadSplit { part: 1, parts: 2, reason }, .. } = error else {
        panic!("{error:?}")
    };
    assert!(reason.contains("m-00002-of-00002.gguf"), "{reason}");

    write_parts(dir.path(), 0);
    let error = Gguf::open(dir.path().join("m-00001-of-00002.gguf")).unwrap_err();
    assert!(matches!(error, ModelError::Gguf { source: GgufError::BadSplit { part: 2, .. }, .. }), "{error:?}");
}
