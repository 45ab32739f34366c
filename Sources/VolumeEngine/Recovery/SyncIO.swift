import Base
import DeviceIO

/// Devices driven step by step, for recovery, format and check: small helpers over
/// `WaitingDevices` that turn results into typed errors.
struct SyncIO {
  let devices: any WaitingDevices

  /// Performs operations in parallel; the first that failed is the error.
  func perform(_ operations: [DeviceOperation]) throws(SyncError) {
    guard !operations.isEmpty else { return }
    let results = attempt(operations)
    for (i, result) in results.enumerated() where result < 0 {
      throw SyncError(
        device: operations[i].device, offset: operations[i].offset, kind: operations[i].kind,
        errno: -result)
    }
  }

  /// Performs operations in parallel and returns each result.
  func attempt(_ operations: [DeviceOperation]) -> [Int32] {
    var results = [Int32](repeating: 0, count: operations.count)
    results.withUnsafeMutableBufferPointer { r in
      operations.withUnsafeBufferPointer { devices.perform($0, results: r) }
    }
    return results
  }

  func read(
    _ device: DeviceIndex, _ offset: UInt64, into memory: UnsafeMutableRawPointer, _ count: Int
  ) throws(SyncError) {
    try perform([
      DeviceOperation(
        .read, device: device, offset: offset, length: count, memory: memory, token: 0)
    ])
  }

  func write(
    _ device: DeviceIndex, _ offset: UInt64, from memory: UnsafeMutableRawPointer, _ count: Int
  ) throws(SyncError) {
    try perform([
      DeviceOperation(
        .write, device: device, offset: offset, length: count, memory: memory, token: 0)
    ])
  }

  func flush(_ device: DeviceIndex) throws(SyncError) {
    try perform([DeviceOperation(.flush, device: device, token: 0)])
  }
}

/// An operation that failed while someone waited for it.
struct SyncError: Error {
  var device: DeviceIndex
  var offset: UInt64
  var kind: OperationKind
  var errno: Int32

  var text: String {
    "device \(device.rawValue): \(kind) at byte \(offset) failed with errno \(errno)"
  }
}

/// Page-aligned memory for as long as its owner lives.
final class AlignedBuffer {
  let base: UnsafeMutableRawPointer
  let count: Int

  init(_ count: Int) {
    // SAFETY: freed in deinit; nobody keeps the pointer longer than the buffer.
    base = UnsafeMutableRawPointer.allocate(byteCount: count, alignment: 4096)
    base.zero(count)
    self.count = count
  }

  deinit { base.deallocate() }
}
