import Base
import DiskFormat
import VolumeEngine

/// A volume that grows while it is served: what is answered beyond its old end is there whatever
/// dies, and the size never goes back.
extension World {
  func tellOfGrowth() throws(Failure) {
    guard try openThroughCrashes() else { throw Failure("The pool does not open.") }
    let small = engine.pointee.size
    write(blocks: 0..<1)
    try awaitReplies()
    engine.pointee.grow(to: layout.volumeSize)
    try settle("growth", until: { self.engine.pointee.size > small })
    // The last block there is.
    write(blocks: layout.count / layout.perBlock - 1..<layout.count / layout.perBlock)
    try awaitReplies()
    die(.kill, landing: { _, _, _ in 0 })

    try begin()
    guard engine.pointee.size == layout.volumeSize else {
      throw Failure("The volume has \(engine.pointee.size) bytes again.")
    }
    try drain()
    // A smaller size is no wish.
    engine.pointee.grow(to: small)
    try shutDown()
    try begin()
    guard engine.pointee.size == layout.volumeSize else { throw Failure("The volume shrank.") }
    try shutDown()
    try check()
  }
}
