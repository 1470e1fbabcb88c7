// Written for the interfaces of oneDNN 2 (operation descriptors) and 3 (none).
#include "kernels/onednn_gemm.h"

#include <dlfcn.h>

#include <array>
#include <exception>
#include <memory>
#include <oneapi/dnnl/dnnl.hpp>
#include <utility>
#include <vector>

#include "kernels/check.h"

namespace tandem {
namespace {

using dnnl::memory;

// oneDNN takes as many threads as OpenMP would in the calling thread, a setting of each thread's
// own. It is changed in whichever OpenMP library oneDNN brought along.
const char* take_one_thread() {
#if DNNL_CPU_RUNTIME == DNNL_RUNTIME_SEQ
  return nullptr;
#elif DNNL_CPU_RUNTIME == DNNL_RUNTIME_OMP
  using SetThreads = void (*)(int);
  const auto set = reinterpret_cast<SetThreads>(dlsym(RTLD_DEFAULT, "omp_set_num_threads"));
  if (set == nullptr) return "oneDNN brings no OpenMP library whose threads could be limited";
  set(1);
  return nullptr;
#else
  return "oneDNN is built for other threads than OpenMP's; they could not be limited";
#endif
}

memory::data_type type_of(const GemmShape& s, bool weights) {
  switch (s.type) {
    case GemmType::kBf16:
      return memory::data_type::bf16;
    case GemmType::kU8S8:
      return weights ? memory::data_type::s8 : memory::data_type::u8;
    default:
      return memory::data_type::f32;
  }
}

// [cols, n_rows], rows being columns here.
memory::desc plain_weights(const GemmShape& s) {
  return {{s.cols, s.n_rows}, type_of(s, true), memory::dims{1, s.w_stride}};
}

dnnl::matmul::primitive_desc describe(const GemmShape& s, const dnnl::engine& engine) {
  const memory::desc x({s.n_tokens, s.cols}, type_of(s, false), memory::dims{s.x_stride, 1});
  const memory::desc w =
      s.packed ? memory::desc({s.cols, s.n_rows}, type_of(s, true), memory::format_tag::any)
               : plain_weights(s);
  const memory::desc out({s.n_tokens, s.n_rows}, memory::data_type::f32,
                         memory::dims{s.out_stride, 1});
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
#if DNNL_VERSION_MAJOR >= 3
  return {engine, x, w, out, attributes};
#else
  return {dnnl::matmul::desc(x, w, out), attributes, engine};
#endif
}

struct Product {
  explicit Product(const GemmShape& s) : shape(s) {}

  void prepare(const dnnl::engine& engine) {
    const dnnl::matmul::primitive_desc described = describe(shape, engine);
    x = memory(described.src_desc(), engine, nullptr);
    w = memory(described.weights_desc(), engine, nullptr);
    out = memory(described.dst_desc(), engine, nullptr);
    scratchpad = memory(described.scratchpad_desc(), engine);
    matmul = dnnl::matmul(described);
    supported = true;
  }

  GemmShape shape;
  bool supported = false;
  dnnl::matmul matmul;
  memory x;
  memory w;
  memory out;
  memory scratchpad;
};

// What one thread keeps. Throws as oneDNN does.
class Context {
 public:
  Context() : missing_(take_one_thread()) {
    if (missing_ == nullptr) {
      engine_ = dnnl::engine(dnnl::engine::kind::cpu, 0);
      stream_ = dnnl::stream(engine_);
    }
    products_.reserve(kOnednnShapes);
  }

  const char* missing() const { return missing_; }

  // Also remembers what oneDNN refuses. Throws where memory is short.
  Product& find(const GemmShape& shape) {
    for (Product& p : products_) {
      if (p.shape == shape) return p;
    }
    Product made(shape);
    try {
      if (missing_ == nullptr) made.prepare(engine_);
    } catch (const dnnl::error& e) {
      if (e.status == dnnl_out_of_memory) throw;  // not remembered: there may be some next time
    }
    if (products_.size() < kOnednnShapes) return products_.emplace_back(std::move(made));
    Product& place = products_[oldest_];
    oldest_ = (oldest_ + 1) % kOnednnShapes;
    place = std::move(made);
    return place;
  }

  bool run(Product& p, const void* x, const void* w, float* out) {
    p.x.set_data_handle(const_cast<void*>(x));  // read only, by its place among the arguments
    p.w.set_data_handle(const_cast<void*>(w));
    p.out.set_data_handle(out);
    const std::array<dnnl_exec_arg_t, 4> arguments{{{DNNL_ARG_SRC, p.x.get()},
                                                    {DNNL_ARG_WEIGHTS, p.w.get()},
                                                    {DNNL_ARG_DST, p.out.get()},
                                                    {DNNL_ARG_SCRATCHPAD, p.scratchpad.get()}}};
    // C, because the C++ way builds a map and a vector for each call.
    return dnnl_primitive_execute(p.matmul.get(), stream_.get(), static_cast<int>(arguments.size()),
                                  arguments.data()) == dnnl_success &&
           dnnl_stream_wait(stream_.get()) == dnnl_success;
  }

  void pack(Product& p, const void* w, void* to) {
    memory plain(plain_weights(p.shape), engine_, const_cast<void*>(w));
    memory packed(p.w.get_desc(), engine_, to);
    dnnl::reorder(plain, packed).execute(stream_, plain, packed);
    stream_.wait();
  }

 private:
  const char* missing_;
  dnnl::engine engine_;
  dnnl::stream stream_;
  std::vector<Product> products_;
  size_t oldest_ = 0;
};

Context& context() {
  static thread_local Context of_thread;
  return of_thread;
}

void check_shape(const GemmShape& s) {
  TANDEM_CHECK(s.n_tokens > 0 && s.n_rows > 0 && s.cols > 0 && s.x_stride >= s.cols &&
                   s.w_stride >= s.cols && s.out_stride >= s.n_rows,
               "%lld tokens by [%lld, %lld], strides %lld, %lld and %lld",
               static_cast<long long>(s.n_tokens), static_cast<long long>(s.n_rows),
               static_cast<long long>(s.cols), static_cast<long long>(s.x_stride),
               static_cast<long long>(s.w_stride), static_cast<long long>(s.out_stride));
}

}  // namespace

const char* onednn_missing() {
  try {
    return context().missing();
  } catch (const std::exception&) {
    return "oneDNN does not start";
  }
}

const char* onednn_version() {
  static const std::array<char, 64> kText = [] {
    std::array<char, 64> text{};
    const dnnl_version_t* v = dnnl_version();
    std::snprintf(text.data(), text.size(), "oneDNN %d.%d.%d", v->major, v->minor, v->patch);
    return text;
  }();
  return kText.data();
}

bool onednn_gemm(const GemmShape& shape, const void* x, const void* w, float* out) {
  check_shape(shape);
  try {
    Product& p = context().find(shape);
    return p.supported && context().run(p, x, w, out);
  } catch (const std::exception&) {
    return false;
  }
}

int64_t onednn_packed_bytes(const GemmShape& shape) {
  check_shape(shape);
  try {
    const Product& p = context().find(shape);
    return p.supported ? static_cast<int64_t>(p.w.get_desc().get_size()) : 0;
  } catch (const std::exception&) {
    return 0;
  }
}

bool onednn_pack(const GemmShape& shape, const void* w, void* to) {
  check_shape(shape);
  try {
    Product& p = context().find(shape);
    if (p.supported) context().pack(p, w, to);
    return p.supported;
  } catch (const std::exception&) {
    return false;
  }
}

}  // namespace tandem
