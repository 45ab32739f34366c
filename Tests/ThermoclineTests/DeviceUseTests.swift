import Testing
import thermocline

@Suite struct DeviceUseTests {
  @Test func readsALineOfMountinfo() throws {
    let mount = try #require(
      DeviceUse.Mount(
        #"36 35 98:0 /mnt1 /srv/my\040disk rw,noatime master:1 shared:2 - ext4 /dev/sda\0401 rw"#))
    #expect(mount.device == "98:0")
    #expect(mount.point == "/srv/my disk")
    #expect(mount.source == "/dev/sda 1")
  }

  @Test(arguments: ["", "a b c", "36 35 98:0 /a /b rw", "36 35 98:0 /a /b rw - ext4"])
  func leavesOtherLinesOut(line: String) {
    #expect(DeviceUse.Mount(line[...]) == nil)
  }

  @Test func seesNoUserOfWhatIsNoDevice() {
    for path in ["/dev/null", "/nonexistent"] { #expect(DeviceUse.reasons(path).isEmpty) }
  }
}
