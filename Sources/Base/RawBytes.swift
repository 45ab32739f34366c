/// Little-endian loads and stores at byte offsets: how every structure on disk is read and
/// written. Callers have checked the length; nothing is aligned.
extension UnsafeRawPointer {
  @inlinable package func u8(_ offset: Int) -> UInt8 {
    load(fromByteOffset: offset, as: UInt8.self)
  }
  @inlinable package func u16(_ offset: Int) -> UInt16 {
    UInt16(littleEndian: loadUnaligned(fromByteOffset: offset, as: UInt16.self))
  }
  @inlinable package func u32(_ offset: Int) -> UInt32 {
    UInt32(littleEndian: loadUnaligned(fromByteOffset: offset, as: UInt32.self))
  }
  @inlinable package func u64(_ offset: Int) -> UInt64 {
    UInt64(littleEndian: loadUnaligned(fromByteOffset: offset, as: UInt64.self))
  }
  @inlinable package func identity(_ offset: Int) -> Identity {
    Identity(high: u64(offset), low: u64(offset + 8))
  }
}

extension UnsafeMutableRawPointer {
  @inlinable package func put8(_ offset: Int, _ value: UInt8) {
    storeBytes(of: value, toByteOffset: offset, as: UInt8.self)
  }
  @inlinable package func put16(_ offset: Int, _ value: UInt16) {
    storeBytes(of: value.littleEndian, toByteOffset: offset, as: UInt16.self)
  }
  @inlinable package func put32(_ offset: Int, _ value: UInt32) {
    storeBytes(of: value.littleEndian, toByteOffset: offset, as: UInt32.self)
  }
  @inlinable package func put64(_ offset: Int, _ value: UInt64) {
    storeBytes(of: value.littleEndian, toByteOffset: offset, as: UInt64.self)
  }
  @inlinable package func putIdentity(_ offset: Int, _ value: Identity) {
    put64(offset, value.high)
    put64(offset + 8, value.low)
  }
  /// Fills `count` bytes with zeros.
  @inlinable package func zero(_ count: Int) {
    initializeMemory(as: UInt8.self, repeating: 0, count: count)
  }
}
