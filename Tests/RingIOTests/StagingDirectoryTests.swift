import Base
import Glibc
import RingIO
import Testing

private let pool = Identity(high: 0x0123_4567_89ab_cdef, low: 0xfedc_ba98_7654_3210)

@Suite(.serialized) struct StagingDirectoryTests {
  @Test func aRingIsMadeFoundAndRemoved() throws {
    let directory = TemporaryDirectory(below: "/dev/shm")
    let place = try StagingDirectory(configured: directory.path + "/staging")
    #expect(try place.open(pool: pool, ring: 1) == nil)
    let made = try place.create(pool: pool, ring: 1, size: 1 << 20)
    #expect(made.count == 1 << 20)
    #expect(made.allSatisfy { $0 == 0 })
    let file = place.path + "/01234567-89ab-cdef-fedc-ba9876543210.0000000000000001"
    var facts = stat()
    #expect(stat(file, &facts) == 0)
    #expect(facts.st_mode & 0o777 == 0o600)
    #expect(facts.st_blocks * 512 == 1 << 20)
    made[12345] = 77
    let again = try place.open(pool: pool, ring: 1)
    #expect(again?.count == 1 << 20)
    #expect(again?[12345] == 77)
    #expect(throws: StagingError.self) { try place.create(pool: pool, ring: 1, size: 4096) }
    #expect(try place.open(pool: pool, ring: 2) == nil)
    place.remove(pool: pool, ring: 1)
    #expect(try place.open(pool: pool, ring: 1) == nil)
    #expect(made[12345] == 77)
    place.unmap(made)
    if let again { place.unmap(again) }
  }

  @Test func placesThatWillNotDoAreRefused() throws {
    func reason(_ path: String) -> StagingError.Reason? {
      do throws(StagingError) {
        _ = try StagingDirectory(configured: path)
        return nil
      } catch {
        return error.reason
      }
    }
    let onDisk = TemporaryDirectory()
    #expect(reason(onDisk.path) == .notInMemory)
    #expect(reason(onDisk.path + "/new") == .notInMemory)
    #expect(access(onDisk.path + "/new", F_OK) == -1)
    let inMemory = TemporaryDirectory(below: "/dev/shm")
    chmod(inMemory.path, 0o777)
    #expect(reason(inMemory.path) == .notOurs)
    chmod(inMemory.path, 0o700)
    #expect(reason(inMemory.path) == nil)
  }

  /// A ring made in one default place is found when another comes first.
  @Test func defaultPlacesAreSearched() throws {
    let place = try StagingDirectory()
    #expect(place.places.first == place.path)
    #expect(place.places.contains("/dev/shm/thermocline-\(geteuid())"))
    let shared = try StagingDirectory(configured: "/dev/shm/thermocline-\(geteuid())")
    let id = UInt64(getpid()) << 32 | 0xabcd
    let made = try shared.create(pool: pool, ring: id, size: 4096)
    let found = try place.open(pool: pool, ring: id)
    #expect(found?.count == 4096)
    place.remove(pool: pool, ring: id)
    #expect(try place.open(pool: pool, ring: id) == nil)
    shared.unmap(made)
    if let found { place.unmap(found) }
  }

  /// A tmpfs too small says so at once, instead of SIGBUS later, and keeps nothing.
  @Test func aFullFilesystemIsNoticed() throws {
    let directory = TemporaryDirectory(below: "/dev/shm")
    let point = directory.path + "/small"
    mkdir(point, 0o700)
    let options = "size=1m,mode=700"
    guard Command.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", point]) == 0 else { return }
    defer { Command.run(["umount", point]) }
    let place = try StagingDirectory(configured: point)
    do throws(StagingError) {
      _ = try place.create(pool: pool, ring: 9, size: 2 << 20)
      Issue.record("2 MiB fitted into 1 MiB")
    } catch {
      #expect(error.reason == .noSpace(bytes: 2 << 20))
    }
    let small = try place.create(pool: pool, ring: 9, size: 1 << 19)
    place.unmap(small)
  }
}
