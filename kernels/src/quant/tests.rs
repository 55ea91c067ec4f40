//! Against candle's own quantised types, on data that candle quantised.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};

use super::*;

fn candle_type(ty: GgmlType) -> GgmlDType {
    match ty {
        GgmlType::F32 => GgmlDType::F32,
        GgmlType::F16 => GgmlDType::F16,
        GgmlType::BF16 => GgmlDType::BF16,
        GgmlType::Q4_0 => GgmlDType::Q4_0,
        GgmlType::Q4_1 => GgmlDType::Q4_1,
        GgmlType::Q5_0 => GgmlDType::Q5_0,
        GgmlType::Q5_1 => GgmlDType::Q5_1,
        GgmlType::Q8_0 => GgmlDType::Q8_0,
        GgmlType::Q2K => GgmlDType::Q2K,
        GgmlType::Q3K => GgmlDType::Q3K,
        GgmlType::Q4K => GgmlDType::Q4K,
        GgmlType::Q5K => GgmlDType::Q5K,
        GgmlType::Q6K => GgmlDType::Q6K,
    }
}

#[test]
fn dequantize_equals_candle() {
    for ty in GgmlType::ALL {
        let values = Tensor::randn(0f32, 1f32, (3, 1024), &Device::Cpu).expect("random tensor");
        let quantised = QTensor::quantize(&values, candle_type(ty)).expect("candle quantises");
        let expected =
            quantised.dequantize(&Device::Cpu).and_then(|t| t.flatten_all()).and_then(|t| t.to_vec1::<f32>());
        let expected = expected.expect("candle dequantises");
        let data = quantised.data().expect("bytes");
        assert_eq!(Some(data.len()), ty.row_bytes(3 * 1024), "{ty}");
        let mut out = vec![0f32; 3 * 1024];
        dequantize(ty, &data, &mut out).expect("same sizes");
        for (i, (a, b)) in out.iter().zip(&expected).enumerate() {
            assert_eq!(a, b, "{ty} value {i}");
        }
    }
}

#[test]
fn ids_and_sizes_are_those_of_ggml() {
    for ty in GgmlType::ALL {
        assert_eq!(GgmlType::from_ggml_id(ty.ggml_id()), Some(ty));
    }
    for unknown in [4, 5, 9, 15, 16, 24, 31, u32::MAX] {
        assert_eq!(GgmlType::from_ggml_id(unknown), None);
    }
    assert_eq!(GgmlType::Q4K.row_bytes(512), Some(288));
    assert_eq!(GgmlType::Q4K.row_bytes(32), None);
    assert_eq!(GgmlType::F32.row_bytes(usize::MAX), None);
}

#[test]
fn wrong_sizes_are_named() {
    let mut out = [0f32; 32];
    assert!(matches!(
        dequantize(GgmlType::Q4_0, &[0; 17], &mut out),
        Err(KernelError::DataLength { expected: 18, actual: 17, .. })
    ));
    assert!(matches!(
        dequantize(GgmlType::Q6K, &[0; 210], &mut out),
        Err(KernelError::ColumnsNotBlocks { cols: 32, .. })
    ));
}
