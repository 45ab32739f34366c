import Base
import DeviceIO
import Glibc
import RingIO
import Testing

private func reason(
  _ paths: [String], _ access: DeviceAccess = .exclusive, patience: UInt64 = 100
) -> DeviceOpenError.Reason? {
  do throws(DeviceOpenError) {
    _ = try DeviceSet(paths: paths, access: access, patience: Milliseconds(patience))
    return nil
  } catch {
    #expect(!error.description.isEmpty)
    return error.reason
  }
}

@Suite(.serialized) struct DeviceSetTests {
  @Test func whatCannotBeADeviceIsRefused() throws {
    let directory = TemporaryDirectory()
    let file = try directory.file("device", size: 65536)
    let empty = directory.path + "/empty"
    close(open(empty, O_CREAT | O_RDWR, 0o600))
    let link = directory.path + "/link"
    symlink(file, link)
    #expect(reason([directory.path + "/nothing"]) == .missing)
    #expect(reason([directory.path]) == .unsuitable)
    #expect(reason(["/dev/null"]) == .unsuitable)
    #expect(reason([empty]) == .empty)
    #expect(reason([file, file]) == .duplicate(of: file))
    #expect(reason([file, link]) == .duplicate(of: file))
    #expect(reason([file]) == nil)
  }

  @Test func aSecondOwnerWaitsAndIsRefused() throws {
    let directory = TemporaryDirectory()
    let file = try directory.file("device", size: 65536)
    let owner = try DeviceSet(paths: [file])
    let start = MonotonicClock.now()
    #expect(reason([file]) == .inUse)
    #expect(MonotonicClock.now().since(start) >= 100_000_000)
    #expect(reason([file], .shared) == .inUse)
    #expect(reason([file], .glance) == nil)
    // The lock is one that other programs see.
    #expect(Command.run(["flock", "--nonblock", file, "true"]) == 1)
    withExtendedLifetime(owner) {}
  }

  @Test func ownershipEndsWithTheSet() throws {
    let directory = TemporaryDirectory()
    let file = try directory.file("device", size: 65536)
    do { _ = try DeviceSet(paths: [file]) }
    #expect(reason([file]) == nil)
    let readers = try DeviceSet(paths: [file], access: .shared)
    #expect(reason([file], .shared) == nil)
    #expect(reason([file]) == .inUse)
    withExtendedLifetime(readers) {}
  }

  /// The owner is another process that goes away in time: the wait ends with success.
  @Test func aDeviceGivenUpInTimeIsTaken() throws {
    let directory = TemporaryDirectory()
    let file = try directory.file("device", size: 65536)
    let process = Command.start(["flock", file, "sleep", "0.4"])
    usleep(150_000)
    #expect(reason([file], patience: 50) == .inUse)
    #expect(reason([file], patience: 3000) == nil)
    if let process { _ = Command.wait(for: process) }
  }

  @Test func aBlockDeviceHasOneOwner() throws {
    let directory = TemporaryDirectory()
    let file = try directory.file("backing", size: 1 << 20)
    guard let loop = LoopDevice(over: file, sector: 512) else { return }
    let owner = try DeviceSet(paths: [loop.path])
    #expect(reason([loop.path]) == .inUse)
    #expect(reason([loop.path], .glance) == nil)
    #expect(owner.isBlockDevice(DeviceIndex(UInt8(0))))
  }

  /// The refusal says who has it: this very process, here.
  @Test func theOwnerIsNamed() throws {
    let directory = TemporaryDirectory()
    let file = try directory.file("device", size: 65536)
    let owner = try DeviceSet(paths: [file])
    do throws(DeviceOpenError) {
      _ = try DeviceSet(paths: [file], patience: Milliseconds(0))
      Issue.record("a device has two owners")
    } catch {
      #expect(error.description.hasPrefix("\(file) is in use by process \(getpid()) ("))
    }
    withExtendedLifetime(owner) {}
  }

  @Test func theKernelsListOfLocksIsRead() {
    let locks = """
      1: FLOCK  ADVISORY  WRITE 77 fe:0a:12 0 EOF
      2: POSIX  ADVISORY  WRITE 78 fd:01:12 0 EOF
      2: -> FLOCK  ADVISORY  WRITE 79 fd:01:12 0 EOF
      3: FLOCK  ADVISORY  READ  0 fd:01:12 0 EOF
      4: FLOCK  ADVISORY  READ  80 fd:01:12 0 EOF
      5: FLOCK
      """
    func holder(_ major: UInt32, _ minor: UInt32, _ inode: UInt64) -> Int32? {
      LockHolder.process(in: locks, major: major, minor: minor, inode: inode)
    }
    #expect(holder(0xfd, 1, 12) == 80)
    #expect(holder(0xfe, 10, 12) == 77)
    #expect(holder(0xfd, 1, 1) == nil)
    #expect(holder(0xf, 0xd01, 12) == nil)
  }

  /// What the operator says goes before what the kernel says, for files and for block devices.
  @Test func rotationCanBeSaid() throws {
    let directory = TemporaryDirectory()
    var paths = [try directory.file("file", size: 1 << 20)]
    let loop = LoopDevice(over: try directory.file("backing", size: 1 << 20), sector: 512)
    if let loop { paths.append(loop.path) }
    for path in paths {
      let said = try DeviceSet(paths: [path]).geometry(of: DeviceIndex(0)).isRotational
      for isRotational in [nil, true, false] {
        let request = DeviceRequest(path: path, isRotational: isRotational)
        let set = try DeviceSet([request])
        #expect(set.geometry(of: DeviceIndex(0)).isRotational == isRotational ?? said)
      }
    }
    withExtendedLifetime(loop) {}
  }

  @Test func filesAreMadeWhole() throws {
    let directory = TemporaryDirectory()
    let path = directory.path + "/made"
    var heard: [UInt64] = []
    try DeviceFile.make(path: path, size: 3 << 20) { done, total in
      #expect(total == 3 << 20)
      heard.append(done)
    }
    #expect(heard.last == 3 << 20)
    var facts = stat()
    stat(path, &facts)
    #expect(facts.st_size == 3 << 20)
    #expect(facts.st_blocks * 512 >= 3 << 20)
    #expect(facts.st_mode & 0o777 == 0o600)
    do throws(DeviceOpenError) {
      try DeviceFile.make(path: path, size: 4096)
      Issue.record("a file was made twice")
    } catch {
      #expect(error.reason == .exists)
    }
    let sparse = directory.path + "/sparse"
    try DeviceFile.make(path: sparse, size: 1 << 30, allocation: .sparse)
    stat(sparse, &facts)
    #expect(facts.st_size == 1 << 30 && facts.st_blocks == 0)
    // More than any filesystem here has: the attempt leaves nothing behind.
    let huge = directory.path + "/huge"
    do throws(DeviceOpenError) {
      try DeviceFile.make(path: huge, size: 1 << 43)
      Issue.record("8 TiB were allocated")
    } catch {
      #expect(error.reason == .noSpace)
    }
    #expect(stat(huge, &facts) == -1)
  }
}
