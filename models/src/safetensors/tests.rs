use super::*;

/// A file of f32 tensors, each filled with its number.
fn file(tensors: &[(&str, &[usize])]) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (number, (name, shape)) in tensors.iter().enumerate() {
        let start = data.len();
        let count: usize = shape.iter().product();
        data.extend((0..count).flat_map(|_| (number as f32).to_le_bytes()));
        let info = serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]});
        header.insert((*name).to_owned(), info);
    }
    let header = serde_json::to_vec(&header).unwrap();
    [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()
}

fn write_shards(dir: &Path) {
    std::fs::write(dir.join("model-00001-of-00002.safetensors"), file(&[("a", &[2, 3]), ("b", &[1])])).unwrap();
    std::fs::write(dir.join("model-00002-of-00002.safetensors"), file(&[("c", &[4])])).unwrap();
    let index = serde_json::json!({"metadata": {"total_size": 44}, "weight_map": {
        "a": "model-00001-of-00002.safetensors",
        "b": "model-00001-of-00002.safetensors",
        "c": "model-00002-of-00002.safetensors",
    }});
    std::fs::write(dir.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

#[test]
fn a_directory_with_an_index_and_the_files_alone_give_the_same() {
    let dir = tempfile::tempdir().unwrap();
    write_shards(dir.path());
    let names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let paths = names.map(|name| dir.path().join(name));
    for shards in [Shards::open(dir.path()).unwrap(), Shards::open_files(&paths).unwrap()] {
        let tensor = shards.tensor("a").unwrap();
        assert_eq!((tensor.dtype, tensor.shape, tensor.bytes.len()), (Dtype::F32, &[2, 3][..], 24));
        assert_eq!(shards.tensor("b").unwrap().bytes, 1.0f32.to_le_bytes());
        assert!(shards.contains("c") && !shards.contains("d"));
        assert_eq!(shards.names().count(), 3);
        assert_eq!(shards.paths().count(), 2);
    }
}

#[test]
fn missing_shards_are_named() {
    let dir = tempfile::tempdir().unwrap();
    write_shards(dir.path());
    std::fs::remove_file(dir.path().join("model-00002-of-00002.safetensors")).unwrap();
    let alone = dir.path().join("model-00001-of-00002.safetensors");
    for error in [Shards::open(dir.path()).unwrap_err(), Shards::open(alone).unwrap_err()] {
        let ModelError::Safetensors { source: SafetensorsError::MissingShards { shards }, .. } = error else {
            panic!("{error:?}")
        };
        assert_eq!(shards, ["model-00002-of-00002.safetensors"]);
    }
}

#[test]
fn an_index_that_lies_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    write_shards(dir.path());
    let index = dir.path().join("model.safetensors.index.json");
    let cases = [
        (
            r#"{"weight_map": {"a": "model-00002-of-00002.safetensors", "c": "model-00001-of-00002.safetensors"}}"#,
            "NotInShard",
        ),
        (r#"{"weight_map": {"a": "../secret.safetensors"}}"#, "ShardOutside"),
        (r#"{"weight_map": {"a": "/etc/passwd"}}"#, "ShardOutside"),
        (r#"{"weight_map": {"a": ".."}}"#, "ShardOutside"),
        (r#"{"weight_map": {}}"#, "NoFiles"),
        (r#"{"weight_map": 3}"#, "BadIndex"),
        ("[", "BadIndex"),
    ];
    for (text, expected) in cases {
        std::fs::write(&index, text).unwrap();
        let ModelError::Safetensors { source, .. } = Shards::open(dir.path()).unwrap_err() else { panic!("{text}") };
        assert!(format!("{source:?}").starts_with(expected), "{text}: {source:?}");
    }
}

#[test]
fn one_name_in_two_files_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let paths = ["x.safetensors", "y.safetensors"].map(|name| dir.path().join(name));
    paths.iter().for_each(|path| std::fs::write(path, file(&[("a", &[1])])).unwrap());
    let ModelError::Safetensors { source, .. } = Shards::open(dir.path()).unwrap_err() else { panic!() };
    assert!(matches!(source, SafetensorsError::TwoShards { .. }), "{source:?}");
}

#[test]
fn an_empty_directory_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let error = Shards::open(dir.path()).unwrap_err();
    assert!(matches!(error, ModelError::Safetensors { source: SafetensorsError::NoFiles, .. }), "{error:?}");
}
