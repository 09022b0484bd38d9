// A second device of torch's, in the computer's own memory.
//
// Kernels are the CPU's, by torch's own fallback. What is special to a device is not: tensors of two
// devices do not mix, backward runs in a thread of its own, and inside a graph's recording nothing
// may wait for the device. New memory is full of NaN, so that nobody relies on zeros.

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/autocast_mode.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/alloc_cpu.h>
#include <torch/extension.h>

#include <atomic>
#include <cstring>

using at::Tensor;
using c10::IntArrayRef;
using c10::SymIntArrayRef;

constexpr auto TYPE = c10::DeviceType::PrivateUse1;
static std::atomic<bool> recording{false};   // a graph
static std::atomic<bool> has_float64{true};  // a Mac's GPU has not

// ------------------------------------------------------------------------------ memory and streams

struct Memory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* start = c10::alloc_cpu(bytes ? bytes : 1);
    std::memset(start, 0xFF, bytes);
    return {start, start, &c10::free_cpu, c10::Device(TYPE, 0)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &c10::free_cpu; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    std::memcpy(to, from, bytes);
  }
};
static Memory memory;
REGISTER_ALLOCATOR(TYPE, &memory);

// One stream, on which everything is done when a call returns.
struct Streams final : c10::impl::NoOpDeviceGuardImpl<TYPE> {
  c10::Stream getStream(c10::Device) const noexcept override {
    return c10::Stream(c10::Stream::DEFAULT, c10::Device(TYPE, 0));
  }
  c10::Stream getDefaultStream(c10::Device place) const override { return getStream(place); }
  c10::Stream exchangeStream(c10::Stream old) const noexcept override {
    return getStream(old.device());
  }
  c10::Device getDevice() const override { return c10::Device(TYPE, 0); }
  c10::Device exchangeDevice(c10::Device) const override { return c10::Device(TYPE, 0); }
  void record(void** event, const c10::Stream&, const c10::DeviceIndex,
              const c10::EventFlag) const override {
    *event = &memory;
  }
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
  void recordDataPtrOnStream(const c10::DataPtr&, const c10::Stream&) const override {}
};
namespace at::detail {
C10_REGISTER_GUARD_IMPL(PrivateUse1, Streams);
}

struct Hooks final : at::PrivateUse1HooksInterface {
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  at::Generator getNewGenerator(c10::DeviceIndex) const override {
    return at::make_generator<at::CPUGeneratorImpl>();
  }
};

// ------------------------------------------------------------------------------------------ kernels

static auto checked(std::optional<at::ScalarType> given) {
  auto dtype = c10::dtype_or_default(given);
  TORCH_CHECK(has_float64 || dtype != c10::kDouble, "this device has no float64");
  return dtype;
}

static Tensor empty(IntArrayRef size, std::optional<at::ScalarType> dtype,
                    std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>,
                    std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(size, &memory, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                   checked(dtype), format);
}

static Tensor empty_strided(IntArrayRef size, IntArrayRef stride,
                            std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                            std::optional<at::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(size, stride, &memory,
                                           c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                           checked(dtype));
}

// The same memory as a tensor of the CPU.
static Tensor as_cpu(const Tensor& tensor) {
  if (tensor.is_cpu()) return tensor;
  return at::from_blob(tensor.data_ptr(), tensor.sizes(), tensor.strides(),
                       at::TensorOptions().dtype(tensor.scalar_type()));
}

static Tensor copy_from(const Tensor& from, const Tensor& to, bool) {
  TORCH_CHECK(!(recording && (from.is_cpu() || to.is_cpu())),
              "operation not permitted when stream is capturing: a copy from or to the CPU");
  at::NoGradGuard guard;
  as_cpu(to).copy_(as_cpu(from).expand_as(to));
  return to;
}

static Tensor copy_from_and_resize(const Tensor& from, const Tensor& to) {
  return copy_from(from, to.resize_(from.sizes()), false);
}

static at::Scalar item(const Tensor& tensor) {
  TORCH_CHECK(!recording, "operation not permitted when stream is capturing: item");
  return as_cpu(tensor).item();
}

static const Tensor& resize(const Tensor& tensor, SymIntArrayRef size,
                            std::optional<at::MemoryFormat>) {
  tensor.unsafeGetTensorImpl()->set_sizes_contiguous(C10_AS_INTARRAYREF_SLOW(size));
  auto* storage = tensor.storage().unsafeGetStorageImpl();
  size_t bytes = (tensor.numel() + tensor.storage_offset()) * tensor.itemsize();
  if (storage->nbytes() < bytes) {
    auto fresh = memory.allocate(bytes);
    std::memcpy(fresh.get(), storage->data(), storage->nbytes());
    storage->set_data_ptr_noswap(std::move(fresh));
    storage->set_nbytes(bytes);
  }
  return tensor;
}

static Tensor& set_storage(Tensor& tensor, at::Storage storage, int64_t offset, IntArrayRef size,
                           IntArrayRef stride) {
  auto* impl = tensor.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(std::move(storage));
  impl->set_storage_offset(offset);
  impl->set_sizes_and_strides(size, stride);
  return tensor;
}

static Tensor view(const Tensor& tensor, SymIntArrayRef size) {
  return at::native::view(tensor, C10_AS_INTARRAYREF_SLOW(size));
}

static Tensor as_strided(const Tensor& tensor, SymIntArrayRef size, SymIntArrayRef stride,
                         std::optional<c10::SymInt> offset) {
  std::optional<int64_t> start;
  if (offset) start = offset->expect_int();
  return at::native::as_strided_tensorimpl(tensor, C10_AS_INTARRAYREF_SLOW(size),
                                           C10_AS_INTARRAYREF_SLOW(stride), start);
}

static Tensor reshape_alias(const Tensor& tensor, SymIntArrayRef size, SymIntArrayRef stride) {
  return at::native::_reshape_alias(tensor, C10_AS_INTARRAYREF_SLOW(size),
                                    C10_AS_INTARRAYREF_SLOW(stride));
}

struct Silent final : c10::WarningHandler {
  void process(const c10::Warning&) override {}
};

// Everything else: by the CPU's kernel, if all tensors are here. As on a GPU, a single number and the
// indices of index may be the CPU's.
static void by_cpu(const c10::OperatorHandle& op, c10::Stack* stack) {
  const auto& name = op.schema().name();
  bool is_index = name.find("aten::index") == 0 || name.find("aten::_index_put") == 0;
  bool has_ours = false, has_cpu = false;
  auto look = [&](const Tensor& tensor) {
    if (!tensor.defined()) return;
    has_ours |= tensor.device().type() == TYPE;
    has_cpu |= tensor.is_cpu() && tensor.dim() > 0;
  };
  for (const auto& value : torch::jit::last(*stack, op.schema().arguments().size())) {
    if (value.isTensor()) look(value.toTensor());
    if (value.isTensorList() && !is_index)
      for (const auto& tensor : value.toTensorVector()) look(tensor);
  }
  TORCH_CHECK(!(has_ours && has_cpu), "tensors of this device and of the CPU in ", name);

  Silent silent;  // the fallback fills results of another shape than it guessed
  c10::WarningUtils::WarningHandlerGuard guard(&silent);
  bool was_recording = recording.exchange(false);  // it copies to the CPU and back
  try {
    at::native::cpu_fallback(op, stack);
  } catch (...) {
    recording = was_recording;
    throw;
  }
  recording = was_recording;
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("empty.memory_format", &empty);
  library.impl("empty_strided", &empty_strided);
  library.impl("_copy_from", &copy_from);
  library.impl("_copy_from_and_resize", &copy_from_and_resize);
  library.impl("_local_scalar_dense", &item);
  library.impl("resize_", &resize);
  library.impl("set_.source_Storage_storage_offset", &set_storage);
  library.impl("view", &view);
  library.impl("as_strided", &as_strided);
  library.impl("_reshape_alias", &reshape_alias);
}
TORCH_LIBRARY_IMPL(_, PrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&by_cpu>());
}

#define HALF(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, lower_precision_fp)
#define FLOAT(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32)
TORCH_LIBRARY_IMPL(aten, AutocastPrivateUse1, m) {  // the macros call it m
  AT_FORALL_LOWER_PRECISION_FP(HALF)
  AT_FORALL_FP32(FLOAT)
}
TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFallthrough());
}

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  module.def("register", [] { at::RegisterPrivateUse1HooksInterface(new Hooks()); });
  module.def("set_recording", [](bool on) { recording = on; });
  module.def("set_has_float64", [](bool on) { has_float64 = on; });
  module.def("as_cpu", &as_cpu);
}
