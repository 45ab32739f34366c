import Base
import Testing

/// Runs the body with an arena of just `bytes` bytes, zero-filled.
func withArena<R>(_ bytes: Int, _ body: (inout Arena) throws -> R) rethrows -> R {
  let memory = UnsafeMutableRawPointer.allocate(byteCount: max(1, bytes), alignment: 4096)
  defer { memory.deallocate() }
  memory.zero(bytes)
  var arena = Arena(base: memory, capacity: bytes)
  return try body(&arena)
}

/// Expects what the macro cannot take apart: calls that change a value, or use one that cannot be
/// copied.
func check(
  _ condition: Bool, _ comment: Comment? = nil, at place: SourceLocation = #_sourceLocation
) {
  #expect(condition, comment, sourceLocation: place)
}
