import ArgumentParser
import CLibNBD
import CNetlink
import Configuration
import Glibc

struct GrowDeviceCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "grow-device",
    abstract: "Tell the kernel's NBD client that its volume has grown.",
    discussion: """
      The kernel learns a device's size when nbd-client attaches it. When the server's volume has \
      grown since, this asks the server how large it is and makes the attached device as large, \
      under use; then the filesystem on it can be grown (resize2fs, xfs_growfs). Runs as root, \
      where the device is attached, which need not be where the server is.

      Exit status: 0 the device is as large as the volume; 2 it is not, with the reason.
      """)

  @Argument(help: "The attached device.", completion: .file())
  var device: String

  @Argument(help: "Where its volume is served: an NBD URI such as nbd://host/vol0.")
  var uri: String

  func run() throws {
    try carryOut {
      guard let name = device.split(separator: "/").last, name.hasPrefix("nbd"),
        let index = UInt32(name.dropFirst(3))
      else { throw Refusal("\(device) is no NBD device: expected one such as /dev/nbd0.") }
      let known = SystemFile.read("/sys/block/\(name)/size")
      guard let sectors = known.flatMap({ UInt64($0.dropLast()) }) else {
        throw Refusal("\(device) is not there: is the module nbd loaded?")
      }
      guard sectors > 0 else {
        throw Refusal("\(device) is not attached: attach it with nbd-client first.")
      }
      let bytes = try servedSize()
      guard bytes >= sectors * 512 else {
        throw Refusal(
          "\(uri) has \(SizeText.exact(bytes)), less than the \(SizeText.exact(sectors * 512)) of "
            + "\(device): is it another volume?")
      }
      try NBDNetlink.setSize(ofDevice: index, bytes)
      Console.printResult("\(device) has \(SizeText.exact(bytes))")
    }
  }

  private func servedSize() throws -> UInt64 {
    guard let client = nbd_create() else { throw Refusal("No NBD client can be made.") }
    defer { nbd_close(client) }
    var size: Int64 = -1
    if nbd_connect_uri(client, uri) == 0 { size = nbd_get_size(client) }
    guard size > 0 else {
      let reason = nbd_get_error().map { String(cString: $0) } ?? "it is empty"
      throw Refusal("\(uri) does not say how large it is: \(reason).")
    }
    return UInt64(size)
  }
}

/// The kernel's NBD client, by generic netlink (`linux/nbd-netlink.h`).
private enum NBDNetlink {
  static func setSize(ofDevice index: UInt32, _ bytes: UInt64) throws {
    func refuse(_ code: Int32) -> Refusal {
      let reason = String(cString: nl_geterror(code))
      return Refusal(
        "The kernel's NBD client does not take the size: \(reason).",
        "It needs root, and a device that nbd-client has attached by netlink (its default).")
    }
    guard let socket = nl_socket_alloc() else { throw refuse(-NLE_NOMEM) }
    defer { nl_socket_free(socket) }
    let connected = genl_connect(socket)
    guard connected >= 0 else { throw refuse(connected) }
    let family = genl_ctrl_resolve(socket, NBD_GENL_FAMILY_NAME)
    guard family >= 0 else { throw refuse(family) }
    guard let message = nlmsg_alloc() else { throw refuse(-NLE_NOMEM) }
    guard
      genlmsg_put(
        message, 0, 0, family, 0, 0, UInt8(NBD_CMD_RECONFIGURE), UInt8(NBD_GENL_VERSION)) != nil,
      nla_put_u32(message, Int32(NBD_ATTR_INDEX), index) >= 0,
      nla_put_u64(message, Int32(NBD_ATTR_SIZE_BYTES), bytes) >= 0
    else {
      nlmsg_free(message)
      throw refuse(-NLE_NOMEM)
    }
    // It frees the message.
    let answer = nl_send_sync(socket, message)
    guard answer >= 0 else { throw refuse(answer) }
  }
}
